"""What a sweep leaves: its table and page, and the winner as a command line."""

import sys
from pathlib import Path
from statistics import fmean, stdev

from smallvision.core.console import Console
from smallvision.core.errors import printable
from smallvision.core.run_dir import command, write_text
from smallvision.reports import leaderboard, sweep_page
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_view import SweepView
from smallvision.reports.words import duration
from smallvision.sweeps import collect

SHOWN_ROWS = 10


def report(directory: Path, storage: str | None = None) -> None:
    """``task=report`` of a sweep's directory: its page and table anew; the ranking, as CSV where no terminal reads it.

    ``storage``: where its trials are kept, if not in that directory.
    """
    view = collect.read(directory, storage)
    draw(view)
    if sys.stdout.isatty():
        tell(Console(), view)
    else:
        sys.stdout.write(leaderboard.as_csv(view))


def draw(view: SweepView) -> None:
    """leaderboard.csv and sweep.html in the sweep's directory."""
    write_text(view.directory / "leaderboard.csv", leaderboard.as_csv(view))
    sweep_page.write_page(view, view.directory / "sweep.html")


def tell(console: Console, view: SweepView, seconds: float | None = None) -> None:
    """The ranking, what failed, and the winner as a command line."""
    counts = {state: len(view.of(state)) for state in ("done", "pruned", "failed", "interrupted", "running")}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    console.print()
    console.print(f"{len(view.trials)} of {view.planned} trials: {told or 'none'}; {duration(seconds)}", style="bold")
    if view.of("done"):
        console.terminal.print(leaderboard.table(view, SHOWN_ROWS))
    for trial in view.of("failed"):
        console.print(f"  trial {trial.number} failed: {printable((trial.reason or '').partition(chr(10))[0])}")
    best = view.best
    if best is not None and view.space:
        console.print(f"best: trial {best.number}, {view.metric} {best.value:.4f}", style="bold green")
        console.print(f"  {command(*view.command(best))}")
    if view.test:
        console.print(test_line(view), style="bold green")
    if view.stand_in_for is not None:
        name = view.stand_in_for
        console.print(f"on a stand-in for {name}: these figures say nothing about {name}", style="bold red")
    console.fields({"page": str(view.directory / "sweep.html")})


def test_line(view: SweepView) -> str:
    """The winner's test figure over its seeds; where nothing was searched, that of all runs."""
    values = list(view.test.values())
    interval = t_interval(values)
    spread = f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f}, sd {stdev(values):.4f})" if interval else ""
    return f"test acc {fmean(values):.4f}{spread}, n = {len(values)} {'seed' if len(values) == 1 else 'seeds'}"
