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
from smallvision.core.run_dir import RunDir, short_name, write_text
from smallvision.reports.comparison import Comparison, Configuration, as_csv, compare
from smallvision.reports.formatting import count, metric, short_names, shorten, spread, text_table
from smallvision.reports.run_view import RunView, find_runs, task_of
from smallvision.reports.statistics import INTERVALS

if TYPE_CHECKING:
    from smallvision.training.checkpoint import BareWeights, Checkpoint  # with torch, which a report does not need

MAX_COLUMNS = 3  # of keys that differ in the terminal; comparison.csv has them all


def run(config: Config, run_dir: RunDir | None, checkpoint: "Checkpoint | BareWeights | None") -> None:
    """Print the runs of ``runs=``, the best by validation first, and write their page and comparison.csv."""
    assert config.runs is not None
    found, pattern = find_runs(config.runs), str(config.runs)
    single = found == [Path(pattern)]
    tasks = ("fit", "test", None) if single else ("fit", None)  # None: reading the file says what is wrong with it
    found = [directory for directory in found if task_of(directory) in tasks]
    if not found:
        raise UserError(f"runs={pattern}: no trained runs there; a comparison needs runs of task=fit")
    comparisons = compare(map(RunView.read, found))
    text = as_csv(comparisons)
    folder = Path(pattern if Path(pattern).is_dir() else os.path.commonpath([one.parent for one in found]) or ".")
    page = draw_run(found[0]) if single else write_comparison(comparisons, text, folder)
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    console = Console()
    for one in comparisons:
        data = one.data
        heading = f"{one.title}: {data.train:,} train, {data.val:,} val, {data.test:,} test"
        console.terminal.print(Text(printable(heading), style="bold"))
        console.terminal.print(table(one))
    console.fields({"page": page})


def draw_run(directory: Path) -> str:
    """Write that run's report.html from what lies in its directory; gives the page's path."""
    from smallvision.reports import pages  # with matplotlib, which a refusal does not wait for

    page = RunDir(directory).report_html
    try:
        write_text(page, pages.run_page(RunView.read(directory)))
    except OSError as error:
        raise UserError(f"{page}: cannot be written: {error.strerror}; check the directory's permissions") from None
    return str(page)


def write_comparison(comparisons: list[Comparison], text: str, folder: Path) -> str:
    """Write comparison.html and comparison.csv; gives the page's path, or why it could not be written."""
    from smallvision.reports import pages

    page = folder / "comparison.html"
    try:
        write_text(folder / "comparison.csv", text)
        write_text(page, pages.comparison_page(comparisons, folder))
    except OSError as error:
        return f"{page} cannot be written: {error.strerror}"
    return str(page)


def table(one: Comparison) -> Table:
    """A row per configuration: the means over its seeds, and the settings in which it differs."""
    names = short_names(one.differing)
    keys, others = one.differing[:MAX_COLUMNS], one.differing[MAX_COLUMNS:]
    rows = []
    for rank, configuration in enumerate(one.configurations, start=1):
        val, test = configuration.sample("val/acc"), configuration.sample("test/acc")
        rows.append([
            str(rank), metric(val.mean), metric(test.mean),
            *([spread(test), str(configuration.seeds)] if one.repeated else []),
            *(shorten(configuration.setting(key)) for key in keys), directories(configuration, one.repeated),
        ])  # fmt: skip
    notes = [INTERVALS] if one.repeated else []
    if others:
        notes.append(shorten(f"comparison.csv has more that differs: {', '.join(names[key] for key in others)}", 80))
    numbers = ["", "val/acc", "test/acc", *(["95 %", "n"] if one.repeated else [])]
    return text_table(numbers, [*(names[key] for key in keys), "run"], rows, "\n".join(notes))


def directories(configuration: Configuration, repeated: bool) -> str:
    """The first run's short name, how runs ended that did not complete, and how many there are of how many seeds, for
    which a ``repeated`` table has a column.
    """
    number = len(configuration.runs)
    runs = [count(number, "run")] if number > 1 else []
    seeds = [count(configuration.seeds, "seed")] if number > configuration.seeds and not repeated else []
    return ", ".join([short_name(configuration.runs[0].directory), *configuration.failures, *runs, *seeds])
