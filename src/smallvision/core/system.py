"""The machine: processors and GPUs that this process may use, and the signals that stop it. Needs no torch."""

import ctypes
import os
import platform
import re
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType

from smallvision.core import ranks
from smallvision.core.errors import Interrupted, UserError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time in a period, and the period
SPIN_COUNT = "30000"  # of GCC's OpenMP, which torch has on Linux
SLICE_NANOSECONDS = 100_000  # the shortest that Linux knows
COMPUTING = 5  # ticks, hundredths of a second, of processor time in half a second: a thread that computes
KEPT = ((-3, 2**27), (-1, 2**31 - 1))  # bytes of glibc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the numbers of that system call
TASKS = Path("/proc/self/task")
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")
ONE_SIGNAL = 0.5  # seconds
GPUS = Path("/dev")  # holds nvidia0, nvidia1, ...


def cores() -> int:
    """Processors that this process may use: those it is bound to, and no more than the container's quota.

    torch starts a thread for each processor that it sees, even where it may use only two at a time.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not CPU_QUOTA.is_file():
        return bound
    quota, period = CPU_QUOTA.read_text().split()
    return bound if quota == "max" else min(bound, max(1, round(int(quota) / int(period))))


@cache
def share_processors() -> None:
    """Before torch is imported: have its threads not hold each other up where other programs keep the processors busy.

    A thread that waits for the others sleeps after about 1 ms, where OpenMP's would spin for 10 ms; one that goes on
    need not wait until another program's slice of some 3 ms is over, but it has the processor for short slices (Linux
    6.12 and later); and no two of them are on one processor. What the user has set stays. The results are the same.
    A second call does nothing.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    number = SCHED_SETATTR.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None and os.sched_getscheduler(0) == os.SCHED_OTHER:
        # struct sched_attr of sched_setattr(2), which Python has no function for; a refusal changes nothing.
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        attributes = struct.pack("IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, SLICE_NANOSECONDS, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
        if not {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"} & os.environ.keys():
            threading.Thread(target=_keep_threads_apart, daemon=True).start()


@cache
def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the next step, which asks for as much again.

    It gives blocks of more than 32 MB back at once, and fresh ones are filled with zeros page by page: a tenth of a
    step of experiment=cifar10_94. What the user has set stays. The results are the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        for parameter, value in KEPT:
            mallopt(parameter, value)


def tune_process() -> None:
    """What a process of ours does, before it imports torch, to train fast; the results are the same."""
    share_processors()
    keep_freed_memory()


def _keep_threads_apart() -> None:
    """Twice a second: where as many threads compute as there are processors, each gets its own.

    Beside other programs Linux leaves two threads of a run on one processor for minutes, where each waits for the
    other: two runs side by side then have a tenth of their speed. OpenMP's threads are bound. One of Python's is moved
    only, and free again before it can start a program, which would be bound as well.
    """
    before: dict[str, int] = {}
    while True:
        time.sleep(0.5)
        with suppress(OSError):  # a thread has just ended
            stats = {task.name: (task / "stat").read_text().rpartition(")")[2].split() for task in TASKS.iterdir()}
            ticks = {task: int(stat[11]) + int(stat[12]) for task, stat in stats.items()}
            computing = sorted(task for task, now in ticks.items() if now - before.get(task, now) >= COMPUTING)
            before, python = ticks, {str(thread.native_id) for thread in threading.enumerate()}
            workers = [task for task in computing if task not in python]
            first, *others = processors = sorted(os.sched_getaffinity(os.getpid()))
            if len(workers) != len(others):
                continue
            for task, processor in zip(workers, others, strict=True):
                os.sched_setaffinity(int(task), {processor})
            for task in computing:
                if task in python and int(stats[task][36]) != first:
                    os.sched_setaffinity(int(task), {first})
                    os.sched_setaffinity(int(task), processors)


def available_memory() -> int:
    """Bytes that are free or hold what can be read again, at most the limit of the container or the cluster's job."""
    available = re.search(r"MemAvailable: *(\d+)", MEMORY.read_text() if MEMORY.is_file() else "")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [file.read_text().strip() for file in _memory_limits()]
    return min(int(available[1]) * 1024 if available else total, *(int(one) for one in limits if one != "max"), total)


def _memory_limits() -> Iterator[Path]:
    """Files with the limits, in bytes, of this process's control groups of both versions and of those around them."""
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = CONTROL_GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CONTROL_GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        around = (one / name for one in (group, *group.parents) if one.is_relative_to(root))
        yield from (file for file in around if file.is_file())


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    found = (path.name.removeprefix("nvidia") for path in GPUS.glob("nvidia[0-9]*"))
    return sorted((name for name in found if name.isdigit()), key=int)


def check_device(name: str) -> None:
    """Raise UserError where ``device=name`` is known to be absent without asking torch."""
    nodes = ("nvidiactl", "nvidia0", "dxg", "kfd", "nvmap")  # NVIDIA's; its of Windows within Linux; AMD's; Jetson's
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    cuda = not hidden and (sys.platform != "linux" or any((GPUS / node).exists() for node in nodes))
    if not {"cuda": cuda, "mps": sys.platform == "darwin"}.get(name, True):
        raise UserError(f"device={name}: this machine has none that torch can use; here: cpu, auto")


class StopRequest:
    """Whether SIGINT or SIGTERM has come: the first asks the run to stop after its step, the second stops it at once.

    Two within :data:`ONE_SIGNAL` seconds, of a person and of what started the process, are one. While a run is
    ``loading``, which writes nothing, the first one stops it at once.
    """

    def __init__(self) -> None:
        self.reset()
        self.numbers: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)

    def reset(self) -> None:
        self.signal: str | None = None
        self.received = 0.0
        self.loading = False
        self.ending = False  # whether the run, in several processes, is on its way to its end

    def install(self) -> None:
        for number in self.numbers if threading.current_thread() is threading.main_thread() else ():
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self.received < ONE_SIGNAL:
                return
            raise Interrupted("stopped at once")
        self.signal, self.received = signal.Signals(number).name, time.monotonic()
        if self.loading:
            print(f"\n{self.signal}: stopped while loading", file=sys.stderr)
            raise Interrupted("stopped while loading")
        if ranks.rank() == 0:
            print(f"\n{self.signal}: stopping after this step; once more to stop at once", file=sys.stderr)


STOP = StopRequest()
