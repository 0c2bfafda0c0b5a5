"""What a sweep leaves: its table and page, and the winner as a command line."""

from statistics import fmean, stdev

from smallvision.errors import printable
from smallvision.files import write_text
from smallvision.reports import leaderboard, sweep_page
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_view import SweepView
from smallvision.reports.words import duration
from smallvision.runs import command
from smallvision.screen import Screen

SHOWN_ROWS = 10


def draw(view: SweepView) -> None:
    """leaderboard.csv and sweep.html in the sweep's directory."""
    write_text(view.directory / "leaderboard.csv", leaderboard.as_csv(view))
    sweep_page.write_page(view, view.directory / "sweep.html")


def tell(screen: Screen, view: SweepView, seconds: float | None = None) -> None:
    """The ranking, what failed, and the winner as a command line."""
    counts = {state: len(view.of(state)) for state in ("done", "pruned", "failed", "interrupted", "running")}
    told = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    screen.say()
    screen.say(
        f"{len(view.trials)} of {view.planned} trials: {told or 'none'}; {duration(seconds)}", style="bold"
    )
    if view.of("done"):
        screen.console.print(leaderboard.table(view, SHOWN_ROWS))
    for trial in view.of("failed"):
        screen.say(f"  trial {trial.number} failed: {printable((trial.reason or '').partition(chr(10))[0])}")
    best = view.best
    if best is not None and view.space:
        screen.say(f"best: trial {best.number}, {view.metric} {best.value:.4f}", style="bold green")
        screen.say(f"  {command(*view.command(best))}")
    if view.test:
        screen.say(test_line(view), style="bold green")
    if view.stand_in_for is not None:
        name = view.stand_in_for
        screen.say(f"on a stand-in for {name}: these figures say nothing about {name}", style="bold red")
    screen.pairs({"page": str(view.directory / "sweep.html")})


def test_line(view: SweepView) -> str:
    """The winner's test figure over its seeds; where nothing was searched, that of all runs."""
    values = list(view.test.values())
    interval = t_interval(values)
    spread = (
        f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f}, sd {stdev(values):.4f})" if interval else ""
    )
    return (
        f"test acc {fmean(values):.4f}{spread}, n = {len(values)} {'seed' if len(values) == 1 else 'seeds'}"
    )
