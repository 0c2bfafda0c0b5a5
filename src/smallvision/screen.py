"""Lines for whoever started a run; needs no torch."""

import logging
import os

from rich.console import Console
from rich.text import Text

from smallvision.errors import printable

log = logging.getLogger("smallvision")


class Screen:
    """Lines for standard output and train.log alike; only the first of several processes speaks.

    With a ``console`` of its own, they go there alone.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, soft_wrap=True)
        self.logged = console is None
        self.silent = int(os.environ.get("LOCAL_RANK", 0)) != 0

    def say(self, line: str = "", style: str = "") -> None:
        if self.silent:
            return
        line = printable(line)
        self.console.print(Text(line, style=style))
        if line and self.logged:
            log.info(line)

    def pairs(self, pairs: dict[str, str]) -> None:
        """Names in one column, values in the next."""
        for name, value in pairs.items():
            self.say(f"  {name:<11}{value}")
