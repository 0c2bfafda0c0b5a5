"""Which of a run's processes this is, as torchrun, srun or the run itself has set it. Needs no torch."""

import os


def rank() -> int:
    """This process's number among all of its run, on all machines; 0 prints, and writes the run directory."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ["SLURM_PROCID"]) if _by_srun() else 0


def world_size() -> int:
    """How many processes were started together; 1 where this one was started alone, and starts the others itself."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if _by_srun() else 1


def local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ["SLURM_LOCALID"] if _by_srun() else 0))


def by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarts() -> int:
    """How often ``torchrun --max-restarts`` has started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _by_srun() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
