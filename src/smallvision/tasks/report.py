"""Compare runs: a table in the terminal, a page and CSV; or draw the page of one run, or of a sweep, anew."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from smallvision.core.console import Console
from smallvision.core.errors import UserError, printable
from smallvision.core.run_dir import write_text
from smallvision.reports import runs
from smallvision.reports.comparison import Comparison, Configuration, compare
from smallvision.reports.run_view import read, task_of
from smallvision.reports.words import figure, short, spread

MOST_COLUMNS = 3  # of keys that differ on the screen; comparison.csv has them all


def run(config: dict[str, Any]) -> None:
    """Print the runs of ``runs=``, the best by validation first, and draw their page."""
    place = config["runs"]
    if is_sweep(Path(place)):
        from smallvision.sweeps import summary

        summary.report(Path(place), config["storage"])
        return
    found = runs.find(place)
    alone = found == [Path(place)]
    wanted = ("fit", "test", None) if alone else ("fit", None)  # one that does not say is refused by name
    found = [one for one in found if task_of(one) in wanted]
    if not found:
        raise UserError(f"runs={place}: no trained runs there")
    page = draw_run(found[0]) if alone else ""
    views = [read(one, arrays=False) for one in found]
    comparisons = compare(views)
    differing = sorted({key for one in comparisons for key in one.differing})
    text = runs.as_csv(runs.table(views), differing)
    folder = Path(place) if Path(place).is_dir() else common_folder(found)
    page = page or write(comparisons, text, folder)
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    console = Console()
    for one in comparisons:
        console.terminal.print(Text(printable(heading(one)), style="bold"))
        console.terminal.print(table(one))
    Console().fields({"page": page})


def draw_run(directory: Path) -> str:
    """Draw the page of that run from what lies in its directory; gives the page's path."""
    from smallvision.reports import run_page

    page = directory / "report.html"
    try:
        run_page.write_page(directory, page)
    except OSError as error:
        raise UserError(f"{page}: cannot be written: {error.strerror}") from None
    return str(page)


def is_sweep(place: Path) -> bool:
    """Whether that is the directory of a sweep."""
    return (place / "sweep.yaml").is_file()


def common_folder(found: list[Path]) -> Path:
    """The folder that all those runs lie in."""
    return Path(os.path.commonpath([one.parent for one in found]) or ".")


def write(comparisons: list[Comparison], text: str, folder: Path) -> str:
    """comparison.html and comparison.csv there; gives the page's path, or why there is none."""
    from smallvision.reports import comparison_page

    page = folder / "comparison.html"
    try:
        write_text(folder / "comparison.csv", text)
        comparison_page.write_page(comparisons, page)
    except OSError as error:
        return f"{page} cannot be written: {error.strerror}"
    return str(page)


def heading(one: Comparison) -> str:
    stand_in = one.data["stand_in_for"]
    name = f"{one.data['name']}, a STAND-IN for {stand_in}" if stand_in else one.data["name"]
    return f"{name}: {one.data['train']:,} train, {one.data['val']:,} val, {one.data['test']:,} test"


def table(one: Comparison) -> Table:
    """A row per configuration: its figures, means over its seeds, and what makes it another one."""
    shown = one.differing[:MOST_COLUMNS]
    repeated = any(len(configuration.runs) > 1 for configuration in one.configurations)
    made = Table(box=None, header_style="bold")
    heads = ["", "val/acc", "test/acc", *(["95 %", "n"] if repeated else [])]
    for name in heads:
        made.add_column(Text(name), justify="right", no_wrap=True)
    last = [key.rpartition(".")[2] for key in one.differing]
    for key in shown:
        name = key.rpartition(".")[2]
        made.add_column(Text(printable(name if last.count(name) == 1 else key)), overflow="fold")
    made.add_column("run", overflow="fold")
    for place, configuration in enumerate(one.configurations, start=1):
        cells = [str(place), figure(configuration.mean("val/acc"))]
        cells += [figure(configuration.mean("test/acc"))]
        cells += [half(configuration, "test/acc"), str(len(configuration.runs))] if repeated else []
        cells += [short(one.shown(configuration, key)) for key in shown]
        cells.append(places(configuration))
        made.add_row(*(Text(printable(cell)) for cell in cells), style="bold" if place == 1 else None)
    notes = ["± is the 95 % interval for the mean over n seeds"] if repeated else []
    if len(one.differing) > len(shown):
        notes.append(f"comparison.csv has the other keys that differ: {', '.join(one.differing[len(shown) :])}")
    made.caption, made.caption_justify = Text("; ".join(notes), style="dim"), "left"
    return made


def half(configuration: Configuration, name: str) -> str:
    interval = configuration.interval(name)
    return "" if interval is None else f"± {spread((interval[1] - interval[0]) / 2)}"


def places(configuration: Configuration) -> str:
    """Where the runs lie, and how they ended where that is not well."""
    first = configuration.runs[0]
    status = "" if first.status == "completed" else f" ({first.status})"
    more = f" and {len(configuration.runs) - 1} more" if len(configuration.runs) > 1 else ""
    return f"{first.directory}{status}{more}"
