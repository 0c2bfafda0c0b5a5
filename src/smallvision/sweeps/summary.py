"""What a sweep leaves: its table, its page, and the command line of its best trial."""

import sys
from pathlib import Path
from statistics import fmean, stdev

from smallvision.core.console import Console
from smallvision.core.errors import printable
from smallvision.core.run_dir import write_text
from smallvision.reports.formatting import duration
from smallvision.reports.pages import sweep_page
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_view import SweepView
from smallvision.sweeps.collect import read_sweep

ROWS_SHOWN = 10


def report(directory: Path, storage: str | None = None) -> None:
    """``task=report`` of a sweep: its page and table anew, and the table printed, as CSV where no terminal shows it.

    ``storage``: the address of its trials, if they are not in the directory.
    """
    view = read_sweep(directory, storage)
    write_report(view)
    if sys.stdout.isatty():
        print_summary(Console(), view)
    else:
        sys.stdout.write(view.as_csv())


def write_report(view: SweepView) -> None:
    """leaderboard.csv and sweep.html in the sweep's directory."""
    write_text(view.directory / "leaderboard.csv", view.as_csv())
    write_text(view.directory / "sweep.html", sweep_page(view))


def print_summary(console: Console, view: SweepView, seconds: float | None = None) -> None:
    """The ranking, what failed, and the best trial as a command line."""
    states = {state: len(view.of(state)) for state in ("done", "pruned", "failed", "interrupted", "running")}
    counts = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    console.print()
    console.print(f"{len(view.trials)} of {view.planned} trials: {counts or 'none'}; {duration(seconds)}", style="bold")
    if view.of("done"):
        console.terminal.print(view.table(ROWS_SHOWN))
    for trial in view.of("failed"):
        reason = (trial.reason or "").partition("\n")[0]
        console.print(f"  trial {trial.number} failed: {printable(reason)}")
    best = view.best
    if best is not None and view.space:
        console.print(f"best: trial {best.number}, {view.metric} {best.value:.4f}", style="bold green")
        console.print(f"  {view.command(best)}")
    if view.test:
        console.print(test_line(list(view.test.values())), style="bold green")
    if view.stand_in_for is not None:
        name = view.stand_in_for
        console.print(f"measured on a stand-in for {name}: says nothing about {name}", style="bold red")
    console.fields({"page": str(view.directory / "sweep.html")})


def test_line(accuracies: list[float]) -> str:
    """test/acc of the best trial over its seeds; without a search, of all runs."""
    interval = t_interval(accuracies)
    spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f}, sd {stdev(accuracies):.4f})" if interval else ""
    return f"test/acc {fmean(accuracies):.4f}{spread}, n = {len(accuracies)} seed{'s' * (len(accuracies) != 1)}"
