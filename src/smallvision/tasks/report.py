"""Compare runs: a table in the terminal, and as CSV where that is piped."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from smallvision.errors import Refusal, printable
from smallvision.reports import leaderboard, runs
from smallvision.screen import Screen

SHOWN = ("val/acc", "test/acc", "epochs", "seed", "images/s", "status", "run")  # the run's name says the rest


def run(config: dict[str, Any]) -> None:
    """Print the runs of ``runs=``, the best by validation first; of a sweep, also draw its page anew."""
    if is_sweep(Path(config["runs"])):
        report_sweep(Path(config["runs"]), config["storage"])
        return
    rows = runs.table(runs.find(config["runs"]))
    if not rows:
        raise Refusal(f"runs={config['runs']}: no trained runs there")
    if not sys.stdout.isatty():
        sys.stdout.write(runs.as_csv(rows))
        return
    table = Table(box=None, header_style="bold")
    for name in SHOWN:
        table.add_column(
            name,
            justify="left" if name in ("status", "run") else "right",
            no_wrap=name != "run",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(_shown(row[name])) for name in SHOWN))
    console = Console()
    console.print(table)
    if any(row["stand_in_for"] for row in rows):
        console.print("* a stand-in for the data set that was asked for", style="red")


def report_sweep(directory: Path, storage: str | None) -> None:
    """How that sweep stands: the page, and the table in the terminal or as CSV."""
    from smallvision.sweeps import conclusion
    from smallvision.sweeps.collect import read

    view = read(directory, storage)
    conclusion.draw(view)
    if sys.stdout.isatty():
        conclusion.tell(Screen(), view)
    else:
        sys.stdout.write(leaderboard.as_csv(view))


def is_sweep(place: Path) -> bool:
    """Whether that is the directory of a sweep."""
    return (place / "sweep.yaml").is_file()


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if value <= 1 else f"{value:,.0f}"
    return printable(str(value))
