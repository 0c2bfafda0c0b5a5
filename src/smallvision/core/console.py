"""Lines on the terminal and in train.log. Needs no torch."""

import logging

import rich.console
from rich.text import Text

from smallvision.core import ranks
from smallvision.core.errors import printable

log = logging.getLogger("smallvision")


class Console:
    """Prints to standard output and logs the same line to train.log.

    Of several processes of one run, only rank 0 prints. With a ``terminal`` given, lines go there alone and
    are not logged.
    """

    def __init__(self, terminal: rich.console.Console | None = None) -> None:
        self.terminal = terminal or rich.console.Console(highlight=False, markup=False, soft_wrap=True)
        self.logged = terminal is None
        self.silent = ranks.rank() != 0

    def print(self, line: str = "", style: str = "") -> None:
        """One line, control characters escaped; ``style`` is one of rich's."""
        if self.silent:
            return
        line = printable(line)
        self.terminal.print(Text(line, style=style))
        if line and self.logged:
            log.info(line)

    def fields(self, fields: dict[str, str]) -> None:
        """Names in one column, values in the next."""
        for name, value in fields.items():
            self.print(f"  {name:<11}{value}")
