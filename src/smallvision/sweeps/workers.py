"""Worker processes: started on this machine or as jobs of a cluster, replaced where one dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from smallvision.config.schema import Sweep
from smallvision.core.errors import UserError
from smallvision.core.system import STOP, cores, gpus
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.study import Study
from smallvision.sweeps.worker import INTERRUPTED, LAST_LINES, start_worker

MAX_STARTUP_DEATHS = 3  # in a row, of workers that had not begun a trial


class LocalLauncher:
    """Starts processes on this machine, each with its part of the cores and one GPU. ``gpus``: by slot."""

    def __init__(self, plan: Plan, count: int, gpus: list[str]) -> None:
        self.plan, self.count, self.gpus = plan, count, gpus

    def start(self, name: str, slot: int) -> "LocalWorker":
        environment = {"OMP_NUM_THREADS": str(max(1, cores() // self.count)), **os.environ}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot]
        return LocalWorker(self.plan, name, environment)


class LocalWorker:
    """A process of this machine. ``log``: its output."""

    def __init__(self, plan: Plan, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.log = plan.directory / "logs" / f"{name}.log"
        self.log.parent.mkdir(exist_ok=True)
        storage = [] if plan.storage is None else [plan.storage]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "smallvision.sweeps.worker", name, str(plan.directory), *storage],
                stdin=subprocess.PIPE,  # closed with this process, or by stop
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def poll(self) -> int | None:
        """Its exit code, negative the number of the signal that killed it; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class SlurmLauncher:
    """Submits jobs. ``options``: submitit's own (``timeout_min``, ``slurm_partition``, ``gpus_per_node``)."""

    def __init__(self, plan: Plan, count: int, options: dict[str, Any]) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise UserError("sweep.launcher=slurm: needs a package: pip install submitit") from None
        self.plan, self.count = plan, count
        parameters = {"cluster": "slurm", **options}
        try:
            self.executor = submitit.AutoExecutor(plan.directory / "jobs", cluster=parameters.pop("cluster"))
            self.executor.update_parameters(name=plan.name, **parameters)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"sweep.launcher=slurm: {str(error).splitlines()[0]}") from None
        os.environ.setdefault("PYTHONUNBUFFERED", "1")

    def start(self, name: str, slot: int) -> "SlurmWorker":
        return SlurmWorker(self.executor.submit(Job(self.plan, name)), name)


class Job:
    """What a job runs; where the cluster preempts it, it is queued again and goes on."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name

    def __call__(self) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; ours stops at the next step
        return start_worker(self.plan, self.name)

    def checkpoint(self) -> Any:
        """Called by submitit on preemption; returns the submission that goes on."""
        from submitit.helpers import DelayedSubmission

        STOP.signal = STOP.signal or "preempted"
        return DelayedSubmission(self)


class SlurmWorker:
    """A submitted job."""

    def __init__(self, job: Any, name: str) -> None:
        self.job, self.name = job, name
        self.log = Path(job.paths.stdout)

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        return 1 if self.job.exception() is not None else int(self.job.result())

    def stop(self) -> None:
        self.job.cancel(check=False)

    def kill(self) -> None:
        self.stop()


Worker = LocalWorker | SlurmWorker
Launcher = LocalLauncher | SlurmLauncher


def make_launcher(plan: Plan, settings: Sweep, device: str) -> Launcher:
    """What ``sweep.launcher`` names. Raises UserError."""
    found = gpus() if device in ("auto", "cuda") else []
    slots = len(found) * settings.per_device
    count = max(1, slots) if settings.workers is None else settings.workers
    if slots and count > slots:
        raise UserError(
            f"sweep.workers={count}: there are {len(found)} GPUs; for more than one worker on each use"
            " sweep.per_device=2"
        )
    if settings.launcher == "slurm":
        return SlurmLauncher(plan, count, settings.launcher_options)
    return LocalLauncher(plan, count, [name for name in found for _ in range(settings.per_device)])


class Workers:
    """The workers of this process's sweep; at most ``count`` at once."""

    def __init__(self, study: Study, launcher: Launcher, count: int) -> None:
        self.study, self.launcher, self.count = study, launcher, count
        self.started = self.startup_deaths = 0
        self.running: dict[int, Worker] = {}  # by slot
        self.fill()

    def fill(self) -> None:
        """Start a worker in every free slot."""
        for slot in set(range(self.count)) - set(self.running):
            self._start(slot)

    def _start(self, slot: int) -> None:
        self.started += 1
        self.running[slot] = self.launcher.start(f"{os.uname().nodename}-{os.getpid()}-{self.started}", slot)

    def check(self, stopping: bool) -> list[str]:
        """Replace workers that died, unless ``stopping``; a message for each."""
        messages = []
        for slot, worker in list(self.running.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.running[slot]
            if stopping:
                continue
            if code not in (0, INTERRUPTED):
                messages.append(self._record_death(worker, code))
            if code != 0:
                self._start(slot)
        return messages

    def _record_death(self, worker: Worker, code: int) -> str:
        """Fail the trials of a worker that died; the message that reports it."""
        cause, log = cause_of_death(code), last_lines(worker.log)
        lost = self.study.abandon(worker.name, "\n".join([cause, *log]))
        self.startup_deaths = 0 if lost else self.startup_deaths + 1
        if self.startup_deaths >= MAX_STARTUP_DEATHS:
            self.kill()
            raise RuntimeError(f"{self.startup_deaths} workers in a row died before any trial:\n" + "\n".join(log))
        return f"{cause}; " + (f"trial {', '.join(map(str, lost))} failed" if lost else "it had begun no trial")

    def stop(self) -> None:
        """Have them stop at their next step."""
        for worker in self.running.values():
            worker.stop()

    def kill(self) -> None:
        for worker in self.running.values():
            worker.kill()


def cause_of_death(code: int) -> str:
    """``code``: of :meth:`LocalWorker.poll`."""
    if code >= 0:
        return f"a worker ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"a worker was killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")


def last_lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []
