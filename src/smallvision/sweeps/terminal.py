"""What the terminal shows of a sweep: what it will do, a line per trial that ends, what is running, what came of it."""

import time
from datetime import datetime

from rich.console import Group
from rich.live import Live
from rich.text import Text

from smallvision.core.console import Console
from smallvision.core.errors import printable
from smallvision.reports.formatting import duration, listing, shorten
from smallvision.reports.statistics import Sample
from smallvision.reports.sweep_view import SweepView, TrialView

ENDED = ("done", "pruned", "failed")
ROWS_SHOWN = 10


def print_header(console: Console, view: SweepView, workers: int, retried: int) -> None:
    """What is searched, how and where. ``retried``: trials that failed and are tried once more."""
    ended = len(view.of(*ENDED))
    space = [f"{key}={expression}" for key, expression in view.space.items()] or ["nothing"]
    console.fields(
        {
            "name": view.name,
            "search": f"{view.method}, {view.planned} trial{'s' * (view.planned != 1)}, by {view.metric}",
            "over": space[0],
            **{" " * number: line for number, line in enumerate(space[1:], 1)},
            "seeds": ", ".join(map(str, view.seeds)),
            "workers": f"{workers}",
            "directory": str(view.directory),
        }
    )
    if ended:
        console.fields({"resumed": f"{ended} of {view.planned} trials have ended already"})
    if retried:
        console.fields({"retried": f"{retried} trials that failed"})


class SweepDisplay:
    """Shows one sweep as it goes on."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.started = time.monotonic()
        self.ended_before: int | None = None  # trials that had ended when the sweep was resumed
        self.printed: dict[int, str] = {}  # state by number

    def __enter__(self) -> "SweepDisplay":
        if self.console.terminal.is_terminal:
            self.live = Live(console=self.console.terminal, transient=True, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, view: SweepView) -> bool:
        """Print the trials that ended since the last update; whether there were any."""
        ended = view.of(*ENDED)
        if self.ended_before is None:
            self.ended_before = len(ended)
            self.printed = {trial.number: trial.state for trial in ended}
        new = [trial for trial in ended if self.printed.get(trial.number) != trial.state]
        for trial in new:
            self.printed[trial.number] = trial.state
            self.console.print(trial_line(view, trial))
        if self.live is not None:
            self.live.update(self._status(view, len(ended)))
        return bool(new)

    def _status(self, view: SweepView, ended: int) -> Group:
        counts = [f"{len(view.of(state))} {state}" for state in (*ENDED, "running") if view.of(state)]
        lines = [f"  {ended}/{view.planned} trials{': ' if counts else ''}{', '.join(counts)}"]
        best = "" if view.best is None else f"best {view.metric} {view.best.value:.4f} (trial {view.best.number})"
        left = self._time_left(view, ended) if ended < view.planned else ""
        lines += [f"  {'; '.join(filter(None, (best, left)))}"]
        for trial in view.of("running"):
            lines += [f"  trial {trial.number}  {progress(view, trial)}  {params_text(trial.params)}"]
        return Group(*(Text(line, style="" if line.startswith("  trial") else "bold", no_wrap=True, overflow="ellipsis")
                       for line in lines))  # fmt: skip

    def _time_left(self, view: SweepView, ended: int) -> str:
        finished = ended - (self.ended_before or 0)
        if not finished:
            return "time left: after the first trial"
        left = (view.planned - ended) * (time.monotonic() - self.started) / finished
        return f"about {duration(left)} left"


def progress(view: SweepView, trial: TrialView) -> str:
    """The last epoch of each of its seeds, and how long it has been running."""
    epochs = [max(curve) for curve in trial.curves.values() if curve]
    reached = f"epoch {', '.join(map(str, epochs))}/{view.epochs}  " if epochs else ""
    return reached + (duration((datetime.now() - trial.began).total_seconds()) if trial.began else "")


def trial_line(view: SweepView, trial: TrialView) -> str:
    """A trial that ended, in one line."""
    value = f"{view.metric} {trial.value:.4f}" if trial.value is not None else ""
    result = value if trial.state == "done" else f"{trial.state}: {shorten(trial.short_reason, 24)}"
    if trial.same_as is not None:
        result += f", as trial {trial.same_as}"
    seconds = f"  {duration(trial.seconds)}" if trial.seconds is not None else ""
    return f"  trial {trial.number:>3}  {result}{seconds}  {params_text(trial.params)}".rstrip()


def params_text(params: dict[str, str]) -> str:
    return printable(" ".join(f"{key}={shorten(value)}" for key, value in params.items()))


def print_summary(console: Console, view: SweepView, seconds: float | None = None) -> None:
    """The ranking, what failed, and the best trial as a command line."""
    counts = ", ".join(f"{number} {state}" for state, number in view.counts.items())
    console.print()
    took = view.elapsed if seconds is None else seconds
    time_text = "" if took is None else f"; {duration(took)}"
    console.print(f"{len(view.trials)} of {view.planned} trials: {counts or 'none'}{time_text}", style="bold")
    if view.of("done"):
        console.terminal.print(view.table(ROWS_SHOWN))
    for one in view.failures:
        console.print(f"  trial{'s' * (len(one.numbers) > 1)} {listing(one.numbers)} failed: {one.reason}")
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
    tested = Sample(accuracies, fraction=True)
    interval = "" if tested.interval is None else "95 % interval {:.4f} to {:.4f}, ".format(*tested.interval)
    spread = "" if tested.deviation is None else f" ({interval}sd {tested.deviation:.4f})"
    return f"test/acc {tested.mean:.4f}{spread}, n = {len(accuracies)} seed{'s' * (len(accuracies) != 1)}"
