"""Compare runs: a table in the terminal, a page and CSV. Of a single run, draw its page anew."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError, printable
from smallvision.core.run_dir import RunDir, write_text
from smallvision.reports.comparison import Comparison, Configuration, as_csv, compare
from smallvision.reports.formatting import metric, shorten, two_digits
from smallvision.reports.run_view import RunView, find_runs, task_of

if TYPE_CHECKING:
    from smallvision.training.checkpoint import BareWeights, Checkpoint  # with torch, which a report does not need

MAX_COLUMNS = 3  # of keys that differ in the terminal; comparison.csv has them all


def run(config: Config, run_dir: RunDir | None, checkpoint: "Checkpoint | BareWeights | None") -> None:
    """Print the runs of ``runs=``, the best by validation first, and write their page and comparison.csv."""
    pattern = config.runs
    assert pattern is not None
    found = find_runs(pattern)
    single = found == [Path(pattern)]
    tasks = ("fit", "test", None) if single else ("fit", None)  # None: reading the file says what is wrong with it
    found = [directory for directory in found if task_of(directory) in tasks]
    if not found:
        raise UserError(f"runs={pattern}: no trained runs there; a comparison needs runs of task=fit")
    comparisons = compare([RunView.read(directory, arrays=False) for directory in found])
    text = as_csv(comparisons)
    folder = Path(pattern) if Path(pattern).is_dir() else common_folder(found)
    page = draw_run(found[0]) if single else write_comparison(comparisons, text, folder)
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    console = Console()
    for one in comparisons:
        console.terminal.print(Text(printable(heading(one)), style="bold"))
        console.terminal.print(table(one))
    console.fields({"page": page})


def draw_run(directory: Path) -> str:
    """Write that run's report.html from what lies in its directory; gives the page's path."""
    from smallvision.reports import run_page  # with matplotlib, which a refusal does not wait for

    page = RunDir(directory).report_html
    try:
        run_page.write_page(directory, page)
    except OSError as error:
        raise UserError(f"{page}: cannot be written: {error.strerror}; check the directory's permissions") from None
    return str(page)


def write_comparison(comparisons: list[Comparison], text: str, folder: Path) -> str:
    """Write comparison.html and comparison.csv; gives the page's path, or why it could not be written."""
    from smallvision.reports import comparison_page

    page = folder / "comparison.html"
    try:
        write_text(folder / "comparison.csv", text)
        comparison_page.write_page(comparisons, page)
    except OSError as error:
        return f"{page} cannot be written: {error.strerror}"
    return str(page)


def common_folder(directories: list[Path]) -> Path:
    """The folder that all those runs lie in."""
    return Path(os.path.commonpath([directory.parent for directory in directories]) or ".")


def heading(one: Comparison) -> str:
    data = one.data
    name = f"{data.name}, a STAND-IN for {data.stand_in_for}" if data.stand_in_for else data.name
    return f"{name}: {data.train:,} train, {data.val:,} val, {data.test:,} test"


def table(one: Comparison) -> Table:
    """A row per configuration: the means over its seeds, and the settings in which it differs."""
    keys = one.differing[:MAX_COLUMNS]
    table = Table(box=None, header_style="bold")
    for name in ["", "val/acc", "test/acc", *(["95 %", "n"] if one.repeated else [])]:
        table.add_column(Text(name), justify="right", no_wrap=True)
    last = [key.rpartition(".")[2] for key in one.differing]
    for key in keys:
        name = key.rpartition(".")[2]
        table.add_column(Text(printable(name if last.count(name) == 1 else key)), overflow="fold")
    table.add_column("run", overflow="fold")
    for rank, configuration in enumerate(one.configurations, start=1):
        half = configuration.half_interval("test/acc")
        cells = [str(rank), metric(configuration.mean("val/acc")), metric(configuration.mean("test/acc"))]
        if one.repeated:
            cells += ["" if half is None else f"± {two_digits(half)}", str(len(configuration.runs))]
        cells += [*(shorten(configuration.setting(key)) for key in keys), directories(configuration)]
        table.add_row(*(Text(printable(cell)) for cell in cells), style="bold" if rank == 1 else None)
    notes = ["± is the 95 % interval for the mean over n seeds"] if one.repeated else []
    if len(one.differing) > len(keys):
        notes.append(f"comparison.csv has the other keys that differ: {', '.join(one.differing[len(keys) :])}")
    table.caption, table.caption_justify = Text("; ".join(notes), style="dim"), "left"
    return table


def directories(configuration: Configuration) -> str:
    """The first run's directory and, where it did not complete, its status; and how many more there are."""
    first = configuration.runs[0]
    status = "" if first.results.status == "completed" else f" ({first.results.status})"
    more = f" and {len(configuration.runs) - 1} more" if len(configuration.runs) > 1 else ""
    return f"{first.directory}{status}{more}"
