"""What carries out the runs of a sweep: here, processes of this machine."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal, Protocol

from smallvision.config.schema import Sweep
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.system import STOP, cores, gpus, tune_process
from smallvision.sweeps.trial import LAST_LINES, Reason, TrialRun

TPE_AT_ONCE = 10  # runs on a cluster, as many as are sampled at random first: later ones learn from those that ended
CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Event:
    """What became of a run: it ``ended`` (``reason``: why it failed, if it did), or its process ``died`` before that
    (``reason``: of what), or it waits after an ``epoch``.
    """

    run: TrialRun
    kind: Literal["ended", "died", "epoch"]
    reason: Reason | None = None


class Executor(Protocol):
    """Runs at most ``slots`` runs at once. ``asks``: whether runs that are ``prunable`` wait after each epoch until
    :meth:`go_on` is called, else they must be followed in their directories.
    """

    slots: int
    asks: bool

    def submit(self, runs: list[TrialRun]) -> None:
        """Start them, no more than there are free slots."""

    def wait(self, seconds: float) -> list[Event]:
        """What happened; at once where something did, else after that time."""

    def go_on(self, run: TrialRun) -> None:
        """Let a run go on that waits after an epoch."""

    def stop(self) -> None:
        """Have every run stop at its next step, saved."""

    def close(self) -> None:
        """End whatever was started."""


def make_executor(directory: Path, settings: Sweep, runs: int, device: str, processes: int = 1) -> Executor:
    """The one that ``sweep.launcher`` names, for that many ``runs`` of so many ``processes``. Raises UserError."""
    if settings.launcher == "slurm":
        from smallvision.sweeps.slurm import SlurmExecutor

        at_once = TPE_AT_ONCE if settings.method == "tpe" else runs
        return SlurmExecutor(directory, settings.workers or min(runs, at_once), settings.launcher_options)
    if settings.launcher == "ray":
        from smallvision.sweeps.ray import RayExecutor

        return RayExecutor(directory, settings, device)
    found = gpus() if device in ("auto", "cuda") else []
    if 0 < len(found) < processes:
        raise UserError(f"trainer.devices={processes}: there are {len(found)} GPUs for each run of the sweep")
    groups = [",".join(found[i : i + processes]) for i in range(0, len(found) - processes + 1, processes)]
    places = [names for names in groups for _ in range(settings.per_device)]
    slots = max(1, len(places)) if settings.workers is None else settings.workers
    if places and slots > len(places):
        raise UserError(
            f"sweep.workers={slots}: there are {len(found)} GPUs, {processes} for a run; for more than one on each use"
            " sweep.per_device=2"
        )
    return LocalExecutor(directory, slots, places, max(1, cores() // (slots * processes)))


# Processes of this machine -------------------------------------------------------------------------------------


class LocalExecutor:
    """Worker processes that run one trial after another, so that only the first waits for the imports.

    Each has one of the ``gpus``, or several with commas between them, and each process of a run so many ``threads``;
    they end with this process.
    """

    asks = True

    def __init__(self, directory: Path, slots: int, gpus: list[str], threads: int) -> None:
        self.logs, self.slots, self.gpus, self.threads = directory / "logs", slots, gpus, threads
        self.workers: list[Worker] = []
        self.started = 0

    def submit(self, runs: list[TrialRun]) -> None:
        for run in runs:
            worker = next((one for one in self.workers if one.run is None and one.process.is_alive()), None)
            if worker is None:
                worker = self._start()
            worker.run = run
            with suppress(BrokenPipeError):  # it has just died, which wait reports
                worker.connection.send(run)

    def _start(self) -> "Worker":
        self.started += 1
        self.logs.mkdir(exist_ok=True)
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": f"{self.threads}"}
        if self.gpus:
            free = list(self.gpus)
            for worker in self.workers:
                free.remove(worker.gpu)
            environment["CUDA_VISIBLE_DEVICES"] = free[0]
        log = self.logs / f"{os.uname().nodename}-{os.getpid()}-{self.started}.log"
        worker = Worker(log, environment)
        self.workers.append(worker)
        return worker

    def wait(self, seconds: float) -> list[Event]:
        busy = {worker.connection: worker for worker in self.workers if worker.run is not None}
        return [event for ready in wait(list(busy), seconds) for event in self._receive(busy[ready])]  # type: ignore[index]

    def _receive(self, worker: "Worker") -> list[Event]:
        run = worker.run
        assert run is not None
        try:
            kind, reason = worker.connection.recv()
        except EOFError:
            self.workers.remove(worker)
            return [Event(run, "died", Reason(worker.cause_of_death()))]
        if kind == "ended":
            worker.run = None
        return [Event(run, kind, reason)]

    def go_on(self, run: TrialRun) -> None:
        for worker in self.workers:
            if worker.run == run:
                with suppress(BrokenPipeError):
                    worker.connection.send(None)

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()

    def close(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            if worker.run is not None:
                worker.process.kill()


class Worker:
    """One worker process. ``log``: its output; ``run``: what it is running."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log, self.gpu = log, environment.get("CUDA_VISIBLE_DEVICES", "")
        self.run: TrialRun | None = None
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=work, args=(theirs, log, environment), daemon=True)
        self.process.start()
        theirs.close()

    def cause_of_death(self) -> str:
        """How it ended, and the last lines of its output."""
        self.process.join()
        code = self.process.exitcode or 0
        cause = f"a worker ended with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            cause = f"a worker was killed by {name}"
            cause += ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return "\n".join([cause, *last_lines(self.log)])


def work(connection: "Connection[object, object]", log: Path, environment: dict[str, str]) -> None:
    """A worker process: runs what comes through the connection until it is closed or SIGTERM comes."""
    os.environ.update(environment)
    tune_process()
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then stops its workers
    STOP.numbers = (signal.SIGTERM,)
    STOP.install()
    threading.Thread(target=stop_with_parent, daemon=True).start()
    from smallvision.sweeps.pruning import AskAfterEpoch  # with torch, before the first trial's clock starts

    gc.freeze()  # what is imported stays: no need to search it after each trial
    with suppress(EOFError, BrokenPipeError, Interrupted):
        while STOP.signal is None:
            run = connection.recv()
            assert isinstance(run, TrialRun)
            try:
                reason = run.execute([AskAfterEpoch(connection)] if run.prunable else [])
            except Interrupted:
                reason = None
            connection.send(("ended", reason))
            gc.collect()  # Trainer, model and loader refer to each other
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads of libraries


def stop_with_parent() -> None:
    """Wait for the end of the sweep, then request the stop that a signal would request."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    STOP.signal = STOP.signal or "end of the sweep"


def last_lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []
