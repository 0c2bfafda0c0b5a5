"""What of the machine a process may use; needs no torch."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from smallvision.core.errors import Interrupted

CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, and in how many
GPUS = Path("/dev")  # holds nvidia0, nvidia1, ...


def cores() -> int:
    """Processors that this process may use: those it is bound to, and no more than a container's share.

    torch itself starts a thread for each that it sees, also where it may only use two at a time.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not CPU_SHARE.is_file():
        return bound
    quota, period = CPU_SHARE.read_text().split()
    return bound if quota == "max" else min(bound, max(1, round(int(quota) / int(period))))


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    found = (path.name.removeprefix("nvidia") for path in GPUS.glob("nvidia[0-9]*"))
    return sorted((name for name in found if name.isdigit()), key=int)


class StopRequest:
    """Whether a signal has come. Installed early, so that a run stopped in its first seconds is still
    built, saved and told how to continue.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.numbers: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)

    def install(self) -> None:
        for number in self.numbers:
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted("stopped at once")
        self.signal = signal.Signals(number).name
        print(f"\n{self.signal}: stopping after this step; once more to stop at once", file=sys.stderr)


STOP = StopRequest()
