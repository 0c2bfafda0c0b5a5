"""Worker processes: as many as asked for, each with its share of the machine, replaced where one dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.core.system import STOP, cores, gpus
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.study import Queue
from smallvision.sweeps.worker import INTERRUPTED, LAST_LINES

DEATHS_IN_A_ROW = 3  # of workers that had not begun a trial


class Worker(Protocol):
    """A worker wherever it runs. ``log``: its output."""

    name: str
    log: Path

    def poll(self) -> int | None:
        """Its exit code, minus the signal's number where one killed it; None while it is at work."""

    def stop(self) -> None:
        """Ask it to stop after its step."""

    def kill(self) -> None: ...


class LocalWorker:
    """A process of this machine; ``share``: the environment that gives it its part of it."""

    def __init__(self, plan: Plan, name: str, share: dict[str, str]) -> None:
        self.name = name
        self.log = plan.directory / "logs" / f"{name}.log"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "smallvision.sweeps.worker"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **share, "SMALLVISION_WORKER": name},
            )
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{plan.to_json()}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:  # it has died; poll tells
            pass

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Pool:
    """The workers of this process's sweep. ``start(name, place)`` makes one; a dead one's place is filled."""

    def __init__(self, plan: Plan, count: int, start: Callable[[str, int], Worker]) -> None:
        self.queue = Queue(plan, "sweep")
        self.start = start
        self.started = self.deaths = 0
        self.workers: dict[int, Worker] = {}
        self.count = count
        self.fill()

    def fill(self) -> None:
        """Start a worker wherever there is none."""
        for place in set(range(self.count)) - set(self.workers):
            self._start(place)

    def _start(self, place: int) -> None:
        self.started += 1
        self.workers[place] = self.start(f"{os.uname().nodename}-{os.getpid()}-{self.started}", place)

    def watch(self, stopping: bool) -> list[str]:
        """Look once after every worker; what is to be told of those that died."""
        told = []
        for place, worker in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[place]
            if code not in (0, INTERRUPTED) and not stopping:
                reason = death(code)
                lost = self.queue.abandon(worker.name, "\n".join([reason, *last_lines(worker.log)]))
                trials = f"trial {', '.join(map(str, lost))} failed" if lost else "it had begun no trial"
                told.append(f"{reason}; {trials}")
                self.deaths = 0 if lost else self.deaths + 1
                if self.deaths >= DEATHS_IN_A_ROW:
                    self.kill()
                    last = "\n".join(last_lines(worker.log))
                    raise RuntimeError(f"{self.deaths} workers in a row died before any trial:\n{last}")
            if code != 0 and not stopping:
                self._start(place)
        return told

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()

    def kill(self) -> None:
        for worker in self.workers.values():
            worker.kill()


def share(place: int, count: int, per_device: int, device: str) -> dict[str, str]:
    """The environment of the worker at that place of ``count``: its CPU threads, its GPU."""
    environment = {}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // count))
    found = gpus() if device in ("auto", "cuda") else []
    if found:
        environment["CUDA_VISIBLE_DEVICES"] = found[place // per_device % len(found)]
    return environment


def workers_of(settings: Config, device: str) -> int:
    """How many: as asked for, else one a GPU (times ``per_device``), else one."""
    found = gpus() if device in ("auto", "cuda") else []
    slots = len(found) * int(settings["per_device"])
    if settings["workers"] is None:
        return max(1, slots)
    if slots and settings["workers"] > slots:
        raise UserError(
            f"sweep.workers={settings['workers']}: there are {len(found)} GPUs; more than one worker on each"
            " is sweep.per_device=2"
        )
    return int(settings["workers"])


def death(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"a worker ended with exit code {code}"
    name = signal.Signals(-code).name
    why = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
    return f"a worker was killed by {name}{why}"


def last_lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []


def launcher(plan: Plan, settings: Config, count: int, device: str) -> Callable[[str, int], Any]:
    """What starts a worker, on this machine or in a cluster."""
    if settings["launcher"] == "slurm":
        from smallvision.sweeps.workers import Cluster

        return Cluster(plan, settings["launcher_options"]).start
    return lambda name, place: LocalWorker(plan, name, share(place, count, settings["per_device"], device))


class Job:
    """What a job does; where the cluster takes its machine away, it is queued anew and goes on."""

    def __init__(self, plan: str, name: str) -> None:
        self.plan, self.name = plan, name

    def __call__(self) -> int:
        from smallvision.sweeps.worker import begin

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; ours stops after the step
        return begin(Plan.from_json(self.plan), self.name)

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        STOP.signal = STOP.signal or "preempted"
        return DelayedSubmission(self)


class ClusterWorker:
    """A submitted job."""

    def __init__(self, job: Any, name: str) -> None:
        self.job, self.name = job, name
        self.log = Path(job.paths.stdout)

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        if self.job.exception() is not None:
            return 1
        return int(self.job.result())

    def stop(self) -> None:
        self.job.cancel(check=False)

    def kill(self) -> None:
        self.stop()


class Cluster:
    """Submits jobs. ``options``: submitit's own (``timeout_min``, ``slurm_partition``, ``gpus_per_node``)."""

    def __init__(self, plan: Plan, options: dict[str, Any]) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise UserError("sweep.launcher=slurm: needs a package: pip install submitit") from None
        self.plan = plan
        chosen = dict(options)
        try:
            self.executor = submitit.AutoExecutor(
                folder=plan.directory / "jobs", cluster=chosen.pop("cluster", "slurm")
            )
            self.executor.update_parameters(name=plan.name, **chosen)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"sweep.launcher=slurm: {str(error).splitlines()[0]}") from None
        os.environ.setdefault("PYTHONUNBUFFERED", "1")

    def start(self, name: str, place: int) -> ClusterWorker:
        return ClusterWorker(self.executor.submit(Job(self.plan.to_json(), name)), name)
