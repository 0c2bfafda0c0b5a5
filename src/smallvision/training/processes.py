"""One run in several processes, on one machine or more.

Rank 0 reads the command line, chooses the run directory, reads and writes it, and prints. The others receive what to
run through torch's store and never see that directory. They were started by torchrun or srun, or rank 0 starts them.
"""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import distributed
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from smallvision.config.schema import Config
from smallvision.config.targets import use
from smallvision.core import ranks
from smallvision.core.errors import Interrupted, LostProcess, UserError
from smallvision.core.run_dir import INSTALLED, RunDir, assign, command, typed_use
from smallvision.core.system import ONE_SIGNAL, STOP

T = TypeVar("T")

PATIENCE = 8.0  # seconds from a signal, or from the end of another process, until this one ends wherever it is
ROUND = 0.5  # seconds from one sign of life to the next
# Rounds without one after which a process is lost, 40 seconds: a cable may be out for 20, after which TCP waits for up
# to 6 more. Rounds rather than seconds: a process that was itself stopped has not waited.
SILENCE = 80
START = timedelta(minutes=10)  # in which all processes must have begun
DISMISSAL = 60.0  # seconds that rank 0 waits for the others when there is nothing for them to do


class Group:
    """The processes of a run; ``rank`` is this one's. With a ``world_size`` of 1 nothing is exchanged."""

    def __init__(
        self, rank: int = 0, world_size: int = 1, store: Store | None = None, run_dir: RunDir | None = None
    ) -> None:
        self.rank, self.world_size, self.store, self.run_dir = rank, world_size, store, run_dir

    def from_first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns on rank 0, or the UserError that it raises there, on every rank."""
        if self.world_size == 1:
            return function()
        answer: tuple[T | None, str | None] = None, None
        if self.rank == 0:
            try:
                answer = function(), None
            except UserError as error:
                answer = None, str(error)
        value, refusal = self.broadcast(answer)
        if refusal is not None:
            raise UserError(refusal)
        return value  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """That of rank 0, on every rank."""
        values = [value]
        if self.world_size > 1:
            distributed.broadcast_object_list(values, 0)
        return values[0]

    def together(self, function: Callable[[], T]) -> T:
        """Call ``function`` on every rank; where one raises UserError, all raise that of the lowest."""
        if self.world_size == 1:
            return function()
        refusal, value = None, None
        try:
            value = function()
        except UserError as error:
            refusal = str(error)
        refusals = self.gather(refusal)
        for rank, one in enumerate(refusals):
            if one is not None:
                raise UserError(f"process {rank}: {one}" if rank else one)
        return value  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """That of each rank."""
        values = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def explain_lost_process(self) -> Iterator[None]:
        """A collective that fails, as another process has ended or does not answer, becomes a LostProcess, or the
        UserError of that process.
        """
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if self.world_size == 1 or not (isinstance(error, distributed.DistError) or "gloo" in text):
                raise
            STOP.ending = True  # so the watchdog need not end it
            refused, reason = False, "it does not answer" if "imed out" in text else "it has ended"
            with suppress(RuntimeError):
                if self.store is not None and self.store.check(["failed"]):
                    refused, reason = json.loads(self.store.get("failed"))
            if refused:
                raise UserError(reason) from None
            raise LostProcess(lost(reason, self.run_dir)) from None


def lost(reason: str, run_dir: RunDir | None) -> str:
    lost = f"another process of this run was lost ({reason})"
    if run_dir is None:
        return lost
    return f"{lost}; {command(assign('resume', run_dir.path), *typed_use(run_dir.overrides))} goes on"


class Environment(LightningEnvironment):
    """Tells Lightning that the processes run already."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def world_size(self) -> int:
        return self.group.world_size

    def global_rank(self) -> int:
        return self.group.rank

    def set_world_size(self, size: int) -> None:
        pass

    def set_global_rank(self, rank: int) -> None:
        super().set_global_rank(self.group.rank)

    def local_rank(self) -> int:
        return ranks.local_rank()

    def teardown(self) -> None:
        pass


_followed: Group | None = None  # the group of a process that is not rank 0


@contextmanager
def joined(config: Config, run_dir: RunDir) -> Iterator[Group]:
    """The group of processes that ``config`` asks for; rank 0 starts the others, or has them begin."""
    if _followed is not None:
        yield _followed
        return
    count = adapt(config, run_dir.overrides)
    if count == 1:
        yield Group()
        return
    children: list[subprocess.Popen[bytes]] = []
    if ranks.world_size() > 1:
        store = _launched_store()
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    else:
        server = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        store = PrefixStore("0", PrefixStore("smallvision", server))
        children = [_start(rank, count, server.port) for rank in range(1, count)]
    ended = "rank 0 has ended"
    watchdog = Watchdog(store, children, run_dir, 0, count)
    try:
        store.set("task", json.dumps([config.to_dict(), str(run_dir.path), run_dir.overrides]))
        yield _join(store, 0, count, config, watchdog)
    except (UserError, LostProcess) as error:
        ended = str(error)
        raise
    except Interrupted:
        if ranks.by_torchrun():
            _say(_torchrun_store(), "interrupted", "")
        raise
    finally:
        _say(store, "ended", ended)
        watchdog.stop()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
            child.kill()
            child.wait()


def adapt(config: Config, overrides: list[str]) -> int:
    """How many processes the run has: those that a launcher has started, else those that ``config`` asks for.

    Raises UserError where others were typed.
    """
    trainer, started = config.trainer, ranks.world_size()
    devices = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
    if devices in ("auto", -1):
        devices = torch.cuda.device_count() if config.device.name in ("auto", "cuda") else 1
        devices = max(int(devices), 1)
    count = int(devices) * trainer.num_nodes
    if started == 1:
        if trainer.num_nodes > 1:
            raise UserError(
                f"trainer.num_nodes={trainer.num_nodes}: start it on each machine: torchrun"
                f" --nnodes={trainer.num_nodes} --nproc-per-node={devices} --rdzv-endpoint=HOST:PORT"
                f" --rdzv-backend=c10d {'-m smallvision' if INSTALLED else 'train.py'} ..., or with srun;"
                " or type trainer.num_nodes=1"
            )
        return count
    nodes = ranks.nodes()
    local = started // nodes
    if local * nodes != started:
        raise UserError(f"{started} processes on {nodes} machines: start as many on each (--ntasks-per-node)")
    typed = any(one.lstrip("+").startswith(("trainer.devices=", "trainer.num_nodes=")) for one in overrides)
    if typed and count != started:
        raise UserError(
            f"trainer.devices={trainer.devices}: with trainer.num_nodes={trainer.num_nodes} these are {count}"
            f" processes, and {started} were started; type trainer.devices={local} trainer.num_nodes={nodes}"
        )
    trainer.devices, trainer.num_nodes = local, nodes
    return started


def follow(run_task: Callable[[Config, RunDir, None], object]) -> None:
    """What every process but rank 0 does: wait for the task, take part in it by ``run_task``, and end after rank 0."""
    global _followed
    parent = int(os.environ.get("SMALLVISION_PARENT", os.getppid()))
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    STOP.install()
    store, deadline = _launched_store(), time.monotonic() + START.total_seconds()
    while not store.check(["task"]):
        if STOP.signal is not None or time.monotonic() > deadline:
            raise UserError("rank 0 has not begun")
        time.sleep(0.1)
    task = store.get("task")
    if not task:
        store.add("dismissed", 1)
        return
    config, path, overrides = json.loads(task)
    config, run_dir = Config.from_dict(config), RunDir(Path(path), overrides)
    use(config.use or [])
    watchdog = Watchdog(store, [], run_dir, ranks.rank(), ranks.world_size())
    try:
        _followed = _join(store, ranks.rank(), ranks.world_size(), config, watchdog)
        run_task(config, run_dir, None)
        _wait_for_end(store, START.total_seconds())  # torchrun would end rank 0, too, while it writes its last files
    except Interrupted:
        _wait_for_end(store, START.total_seconds())
        raise
    except Exception as error:
        refused = isinstance(error, UserError)
        text = f"process {ranks.rank()}: {'' if refused else f'{type(error).__name__}: '}{error}"
        _say(store, "failed", json.dumps([refused, text]))
        _wait_for_end(store, 1)
        raise
    finally:
        watchdog.stop()


def dismiss() -> None:
    """Tell processes that wait for rank 0 that there is nothing for them to do, unless they have begun."""
    with suppress(RuntimeError):
        store = _launched_store()
        if not store.check(["task"]):
            store.set("task", "")
            deadline = time.monotonic() + DISMISSAL
            while store.add("dismissed", 0) < ranks.world_size() - 1 and time.monotonic() < deadline:
                time.sleep(0.1)


def remember_directory(path: Path) -> None:
    """For the case that torchrun starts this run again."""
    _torchrun_store().set("run_dir", str(path.resolve()))


def earlier_directory() -> Path | None:
    """The run directory that this run had before torchrun started it again. Raises Interrupted where it was stopped."""
    store = _torchrun_store()
    if store.check(["interrupted"]):
        raise Interrupted
    return Path(store.get("run_dir").decode()) if store.check(["run_dir"]) else None


# The store, and who ends whom ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _torchrun_store() -> Store:
    """The store of the processes that were started together: torchrun's, which outlives them, or else rank 0's."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if ranks.by_srun():
        address = address or SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        step = 16 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
        port = port or str(15_000 + step % 10_000)  # another for each step
    if address is None or port is None:
        raise UserError("MASTER_ADDR, MASTER_PORT: not set, but RANK is; start processes by torchrun or srun")
    hosted = ranks.rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(address, int(port), None, hosted, timeout=START, wait_for_workers=False)
    return PrefixStore("smallvision", store)


def _launched_store() -> Store:
    """That part of it which is of this start."""
    return PrefixStore(str(ranks.restarts()), _torchrun_store())


def _say(store: Store, key: str, text: str) -> None:
    with suppress(RuntimeError):
        if not store.check([key]):
            store.set(key, text)


def _wait_for_end(store: Store, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with suppress(RuntimeError):  # the store has ended with rank 0
        while not store.check(["ended"]) and time.monotonic() < deadline:
            time.sleep(0.1)


def _start(rank: int, count: int, port: int) -> "subprocess.Popen[bytes]":
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    environment |= {name: str(value) for name, value in places.items()}
    environment |= {"SMALLVISION_PARENT": str(os.getpid()), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-m", "smallvision.cli"], env=environment)


def _join(store: Store, rank: int, count: int, config: Config, watchdog: "Watchdog") -> Group:
    watchdog.start()
    backend = "gloo"
    if config.device.name in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank())
        backend = "cpu:gloo,cuda:nccl"
    group = Group(rank, count, store, watchdog.run_dir)
    timeout = timedelta(seconds=config.trainer.timeout)
    with group.explain_lost_process():
        distributed.init_process_group(
            backend, store=PrefixStore("group", store), rank=rank, world_size=count, timeout=timeout
        )
    return group


class Watchdog(threading.Thread):
    """Ends this process where it waits in a collective and cannot: Python handles no signal while torch waits there,
    and a host that is gone sends nothing.

    After a signal, or after another process is lost, the main thread has ``PATIENCE`` to end the run itself.
    """

    def __init__(
        self, store: Store, children: "list[subprocess.Popen[bytes]]", run_dir: RunDir, rank: int, count: int
    ) -> None:
        super().__init__(daemon=True)
        self.store, self.children, self.run_dir = store.clone(), children, run_dir
        self.rank, self.count = rank, count
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.before = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self.stopped = threading.Event()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.silence = 0  # rounds since the store has answered
        self.reason: str | None = None  # why a process is lost
        STOP.ending = False

    def run(self) -> None:
        since, signals = None, 0
        while not self.stopped.is_set():
            if select.select([self.reader], [], [], ROUND)[0]:
                received = [number for number in os.read(self.reader, 64) if number in STOP.numbers]
                signals += bool(received) and (since is None or time.monotonic() - since > ONE_SIGNAL)
                since = time.monotonic() if received else since
            self.silence += 1
            if self.silence > SILENCE:
                self.reason = "it does not answer"
            if since is None and self.reason is not None:
                since = time.monotonic()
            if since is not None and time.monotonic() - since > PATIENCE and (not STOP.ending or signals > 1):
                self._end(130 if signals else 1)

    def _listen(self) -> None:
        """Exchange signs of life through the store, each call of which takes as long as the network is away."""
        heard = {rank: (b"", 0) for rank in (range(1, self.count) if self.rank == 0 else [0])}
        for beat in itertools.count():
            try:
                self.store.set(f"alive/{self.rank}", str(beat))
                if any(child.poll() for child in self.children):
                    self.reason = "it has ended"
                elif self.store.check(["failed"]):
                    _, self.reason = json.loads(self.store.get("failed"))
                for rank, (before, since) in heard.items():
                    now = self.store.get(f"alive/{rank}") if self.store.check([f"alive/{rank}"]) else before
                    heard[rank] = (now, beat if now != before else since)
                    if heard[rank][0] and beat - heard[rank][1] > SILENCE:
                        self.reason = f"process {rank} does not answer"
                        _say(self.store, "failed", json.dumps([False, self.reason]))
            except RuntimeError:  # the store has ended with rank 0
                self.reason = "it has ended"
            self.silence = 0
            if self.reason is not None or self.stopped.wait(ROUND):
                return

    def _end(self, code: int) -> None:
        for child in self.children:
            child.kill()
        if ranks.local_rank() == 0 and not self.stopped.is_set():
            print(f"error: {lost(self.reason or 'it does not answer', self.run_dir)}", file=sys.stderr, flush=True)
        os._exit(code)

    def start(self) -> None:
        super().start()
        self.listener.start()

    def stop(self) -> None:
        self.stopped.set()
        if self.listener.is_alive():  # Python ends with SIGABRT where a thread comes back from torch too late
            self.listener.join(4 * ROUND)
        signal.set_wakeup_fd(self.before)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
