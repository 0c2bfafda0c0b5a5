"""What the terminal shows while a sweep runs: a line per trial that ends, and below, what is running."""

import time
from datetime import datetime

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smallvision.core.console import Console
from smallvision.core.errors import printable
from smallvision.reports.formatting import duration, shorten
from smallvision.reports.sweep_view import SweepView, TrialView

ENDED = ("done", "pruned", "failed")


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
        done, pruned, failed = (len(view.of(state)) for state in ENDED)
        line = f"  {ended}/{view.planned} trials: {done} done, {pruned} pruned, {failed} failed"
        if view.best is not None:
            line += f"; best {view.best.value:.4f} (trial {view.best.number})"
        if ended < view.planned:
            line += f"; {self._time_left(view, ended)}"
        running = Table.grid(padding=(0, 2))
        for trial in view.of("running"):
            running.add_row(f"  trial {trial.number}", progress(view, trial), Text(params_text(trial.params)))
        return Group(Text(line, style="bold"), running)

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
    reason = (trial.reason or "").partition("\n")[0]
    result = {"done": value, "failed": f"failed: {reason}", "pruned": f"pruned: {reason}"}[trial.state]
    if trial.same_as is not None:
        result += f", as trial {trial.same_as}"
    seconds = f"  {duration(trial.seconds)}" if trial.seconds is not None else ""
    return f"  trial {trial.number:>3}  {result}{seconds}  {params_text(trial.params)}".rstrip()


def params_text(params: dict[str, str]) -> str:
    return printable(" ".join(f"{key}={shorten(value)}" for key, value in params.items()))
