"""Which of a run's processes this is, as torchrun, srun or the run itself has set it. Needs no torch."""

import os


def rank() -> int:
    """This process's number among all of its run, on all machines; 0 prints, and writes the run directory."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ["SLURM_PROCID"]) if by_srun() else 0


def world_size() -> int:
    """How many processes were started together; 1 where this one was started alone, and starts the others itself."""
    if "RANK" in os.environ:
        return int(os.environ.get("WORLD_SIZE", 1))
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if by_srun() else 1


def local_rank() -> int:
    """This process's number among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ["SLURM_LOCALID"] if by_srun() else 0))


def nodes() -> int:
    """On how many machines they were started."""
    if "RANK" in os.environ:
        return max(1, world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size())))
    return int(os.environ["SLURM_STEP_NUM_NODES"]) if by_srun() else 1


def by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    return "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def restarts() -> int:
    """How often ``torchrun --max-restarts`` has started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
