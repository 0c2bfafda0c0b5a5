"""Runs of a sweep as jobs of a Slurm cluster, submitted by submitit.

A job is a run; runs that start together are an array. A job that ends before its run has (walltime, preemption, a dead
node) is followed by another, which goes on from the run's last checkpoint. Slurm's accounting is not needed.
"""

import logging
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from smallvision.core.errors import UserError
from smallvision.core.system import STOP, tune_process
from smallvision.sweeps.executors import Event, last_lines
from smallvision.sweeps.trial import Reason, TrialRun

if TYPE_CHECKING:
    from submitit import Job

POLL_SECONDS = 2.0  # from one question to Slurm to the next
SAVE_SECONDS = 90  # before its walltime a job is warned; at most a tenth of it
LARGEST_ARRAY = 1000  # Slurm's MaxArraySize, if nobody changed it


class SlurmExecutor:
    """``options``: submitit's own (``timeout_min``, ``slurm_partition``, ``gpus_per_node``)."""

    asks = False

    def __init__(self, directory: Path, slots: int, options: dict[str, object]) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise UserError("sweep.launcher=slurm: needs a package: pip install submitit") from None
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self.slots, self.folder = slots, directory / "jobs"
        self.jobs: list[tuple[TrialRun, Job[Reason | None]]] = []
        self.asked = 0.0
        minutes = options.get("timeout_min", 5)
        warning = min(SAVE_SECONDS, int(minutes * 6)) if isinstance(minutes, (int, float)) else SAVE_SECONDS
        try:
            self.executor = submitit.AutoExecutor(self.folder, cluster="slurm")
            self.executor.update_parameters(**{"name": directory.name, "slurm_signal_delay_s": warning, **options})
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"sweep.launcher=slurm: {str(error).splitlines()[0]}") from None
        self.end_former_jobs()

    def end_former_jobs(self) -> None:
        """Cancel what a killed sweep left, and wait until its runs are saved: nothing runs twice."""
        self.close()
        while queued() & self.submitted():
            time.sleep(POLL_SECONDS)

    def submitted(self) -> set[str]:
        """Numbers of all jobs that were ever submitted for this sweep: ``7``, or ``7_2`` in an array."""
        return {file.name.removesuffix("_submitted.pkl") for file in self.folder.glob("*_submitted.pkl")}

    def submit(self, runs: list[TrialRun]) -> None:
        from submitit.core.utils import FailedJobError

        os.environ.setdefault("PYTHONUNBUFFERED", "1")
        try:
            for first in range(0, len(runs), LARGEST_ARRAY):
                part = runs[first : first + LARGEST_ARRAY]
                self.jobs += zip(part, self.executor.map_array(execute, part), strict=True)
        except FailedJobError as error:
            last = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")
            raise UserError(f"sweep.launcher=slurm: {last}; see +sweep.launcher_options") from None

    def wait(self, seconds: float) -> list[Event]:
        time.sleep(seconds)
        if not self.jobs or time.monotonic() - self.asked < POLL_SECONDS:
            return []
        self.asked = time.monotonic()
        try:
            active = queued()
        except (OSError, subprocess.SubprocessError):  # Slurm's controller is away for a while
            return []
        ended = [pair for pair in self.jobs if pair[1].job_id not in active or pair[1].paths.result_pickle.is_file()]
        self.jobs = [pair for pair in self.jobs if pair not in ended]
        cancel(active & {job.job_id for _, job in ended})  # Slurm has queued it again, for minutes from now
        return [result(run, job) for run, job in ended]

    def go_on(self, run: TrialRun) -> None:
        raise AssertionError("no run asks")

    def stop(self) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all jobs; those that run save at their next step."""
        with suppress(OSError, subprocess.SubprocessError):
            cancel(self.submitted() & queued())


def execute(run: TrialRun) -> Reason | None:
    """A job: the run, which SIGTERM (cancelled, preempted) and SIGUSR2 (its walltime is near) stop at its next step."""
    STOP.numbers = (signal.SIGTERM, signal.SIGUSR2)
    STOP.install()
    tune_process()
    return run.execute_on_node()


def result(run: TrialRun, job: "Job[Reason | None]") -> Event:
    """What became of a job that has left the queue."""
    from submitit.core.utils import pickle_load

    try:
        outcome, reason = pickle_load(job.paths.result_pickle)
    except (OSError, EOFError):  # it was killed
        cause = f"job {job.job_id} ended before its run ({state(job.job_id)})"
        return Event(run, "died", Reason("\n".join([cause, *last_lines(job.paths.stderr)])))
    return Event(run, "ended", reason) if outcome == "success" else Event(run, "died", Reason(str(reason)))


def queued() -> set[str]:
    """Numbers of this user's jobs that wait or run."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def cancel(job_ids: set[str]) -> None:
    if job_ids:
        subprocess.run(["scancel", *job_ids], capture_output=True, timeout=60)


def state(job_id: str) -> str:
    """Slurm's word for how a job ended."""
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", job_id], capture_output=True, text=True).stdout
    found = [word.partition("=")[2] for word in shown.split() if word.startswith("JobState=")]
    return found[0] if found else "unknown to Slurm"
