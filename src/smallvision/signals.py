"""Ctrl-C and SIGTERM: the first asks the run to stop at the end of its step, the second stops it at once."""

import signal
import sys
from types import FrameType

from smallvision.errors import Interrupted


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
