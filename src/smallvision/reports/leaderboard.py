"""A sweep's trials in order, as CSV and as a table in the terminal."""

import csv
import io
import math
from typing import Any

from rich.table import Table
from rich.text import Text

from smallvision.core.errors import printable
from smallvision.reports.formatting import duration, metric, shorten, two_digits
from smallvision.reports.sweep_view import STATES, SweepView, TrialView

MAX_COLUMNS = 3  # of searched keys in the terminal
Ranked = tuple[int | None, TrialView]


def ranked(view: SweepView) -> list[Ranked]:
    """All trials with their ranks: done ones, the best first; then those without a rank, state by state."""
    numbers = {trial.number for trial in view.ranking}
    others = sorted((trial for trial in view.trials if trial.number not in numbers), key=lambda one: _order(view, one))
    return [*enumerate(view.ranking, start=1), *((None, trial) for trial in others)]


def _order(view: SweepView, trial: TrialView) -> tuple[int, float, int]:
    """By state; trials that were cut short by the best metric that they reached."""
    reached = view.best_epoch(trial)
    loss = math.inf if reached is None else -reached if view.maximize else reached
    group = STATES.index(trial.state) if trial.state in STATES else len(STATES)
    return group, loss if trial.state in ("running", "interrupted", "pruned") else 0.0, trial.number


def as_csv(view: SweepView) -> str:
    """For other programs: numbers with all their digits, run directories joined by ``;``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = list(view.space)
    header = ["rank", "trial", "state", view.metric, "std", "n", "low", "high", *keys, "seconds", "run", "reason"]
    writer.writerow(map(_cell, header))
    for rank, trial in ranked(view):
        low, high = trial.interval or (None, None)
        row = [rank, trial.number, trial.state, trial.value, trial.deviation, len(trial.values), low, high]
        row += [*(trial.params.get(key) for key in keys), trial.seconds]
        row += [";".join(str(run) for _, run in sorted(trial.runs.items())), trial.short_reason]
        writer.writerow(map(_cell, row))
    return text.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else printable(str(value))


def table(view: SweepView, limit: int | None = None) -> Table:
    """The first ``limit`` rows for the terminal."""
    rows = ranked(view)
    shown = rows[:limit]
    repeated = any(len(trial.values) > 1 for _, trial in shown)
    together = len(view.space) > MAX_COLUMNS
    keys = [] if together else list(view.space)
    names = _short_names(view)
    result = Table(box=None, header_style="bold")
    for name in ["", view.metric, *(["95 %", "n"] if repeated else []), "time", "trial"]:
        result.add_column(Text(name), justify="right", no_wrap=True)
    for name in [*(names[key] for key in keys), *(["values"] if together else [])]:
        result.add_column(Text(printable(name)), overflow="fold", min_width=min(len(name), 11))
    result.add_column("state", overflow="fold", min_width=len("interrupted"))
    for rank, trial in shown:
        half = trial.half_interval
        cells = [
            str(rank or ""), metric(trial.value),
            *(["-" if half is None else f"± {two_digits(half)}", str(len(trial.values))] if repeated else []),
            duration(trial.seconds), str(trial.number),
            *(shorten(trial.params.get(key) or "-") for key in keys),
            *([" ".join(f"{names[key]}={shorten(value)}" for key, value in trial.params.items())] if together else []),
            _state(trial),
        ]  # fmt: skip
        result.add_row(*(Text(printable(cell)) for cell in cells), style="bold" if rank == 1 else None)
    notes = ["± is the 95 % interval for the mean over n seeds"] if repeated else []
    if len(rows) > len(shown):
        notes.append(f"{len(rows) - len(shown):,} more in leaderboard.csv")
    if view.stand_in_for is not None:
        notes.append(f"on a stand-in for {printable(view.stand_in_for)}, not on its images")
    result.caption = Text("; ".join(notes), style="red" if view.stand_in_for is not None else "dim")
    result.caption_justify = "left"
    return result


def _short_names(view: SweepView) -> dict[str, str]:
    """``optimizer.lr`` as ``lr``, where no other searched key ends so."""
    last = [key.rpartition(".")[2] for key in view.space]
    return {key: name if last.count(name) == 1 else key for key, name in zip(view.space, last, strict=True)}


def _state(trial: TrialView) -> str:
    if trial.same_as is not None:
        return f"{trial.state}, as trial {trial.same_as}"
    failed = trial.state == "failed" and trial.short_reason
    return f"failed: {shorten(trial.short_reason, 60)}" if failed else trial.state
