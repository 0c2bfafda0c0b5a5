"""What one sees of a sweep while it runs: a line per trial that ends, on a terminal what runs below."""

import time
from datetime import datetime

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smallvision.core.console import Console
from smallvision.core.errors import printable
from smallvision.reports.sweep_view import SweepView, TrialView
from smallvision.reports.words import duration, short

OVER = ("done", "pruned", "failed")


class SweepDisplay:
    """Shows views of one sweep as it goes on."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.told: dict[int, str] = {}
        self.live: Live | None = None
        self.started = time.monotonic()
        self.before: int | None = None

    def __enter__(self) -> "SweepDisplay":
        if self.console.terminal.is_terminal:
            self.live = Live(console=self.console.terminal, transient=True, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, view: SweepView) -> bool:
        """Tell what is new since the last time; whether that is anything."""
        over = [trial for trial in view.trials if trial.state in OVER]
        if self.before is None:
            self.before = len(over)
            self.told = {trial.number: trial.state for trial in over}
        new = [trial for trial in over if self.told.get(trial.number) != trial.state]
        for trial in new:
            self.told[trial.number] = trial.state
            self.console.print(ended_line(view, trial))
        if self.live is not None:
            self.live.update(self._standing(view, len(over)))
        return bool(new)

    def _standing(self, view: SweepView, over: int) -> Group:
        best = view.best
        done, pruned, failed = (len(view.of(state)) for state in OVER)
        words = f"  {over}/{view.planned} trials: {done} done, {pruned} pruned, {failed} failed"
        if best is not None:
            words += f"; best {best.value:.4f} (trial {best.number})"
        if over < view.planned:
            words += f"; {self._time_left(view, over)}"
        running = Table.grid(padding=(0, 2))
        for trial in view.of("running"):
            running.add_row(f"  trial {trial.number}", progress(view, trial), Text(shown(trial.params)))
        return Group(Text(words, style="bold"), running)

    def _time_left(self, view: SweepView, over: int) -> str:
        finished = over - (self.before or 0)
        if not finished:
            return "time left: after the first trial"
        left = (view.planned - over) * (time.monotonic() - self.started) / finished
        return f"about {duration(left)} left"


def progress(view: SweepView, trial: TrialView) -> str:
    """The epoch that each of its seeds has behind it, and for how long it has been at work."""
    epochs = [max(curve) for curve in trial.curves.values() if curve]
    behind = f"epoch {', '.join(map(str, epochs))}/{view.epochs}  " if epochs else ""
    lasted = duration((datetime.now() - trial.began).total_seconds()) if trial.began else ""
    return f"{behind}{lasted}"


def ended_line(view: SweepView, trial: TrialView) -> str:
    """One trial that is over, in a line."""
    value = f"{view.metric} {trial.value:.4f}" if trial.value is not None else ""
    why = (trial.reason or "").partition("\n")[0]
    what = {"done": value, "failed": f"failed: {why}", "pruned": f"pruned: {why}"}[trial.state]
    if trial.same_as is not None:
        what += f", as trial {trial.same_as}"
    took = f"  {duration(trial.seconds)}" if trial.seconds is not None else ""
    return f"  trial {trial.number:>3}  {what}{took}  {shown(trial.params)}".rstrip()


def shown(params: dict[str, str]) -> str:
    return printable(" ".join(f"{key}={short(value)}" for key, value in params.items()))
