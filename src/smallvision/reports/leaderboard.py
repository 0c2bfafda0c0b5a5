"""A sweep's trials in order: as rows, as CSV and as a table on the screen."""

import csv
import io
import math
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from smallvision.core.errors import printable
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_view import SweepView, TrialView
from smallvision.reports.words import duration, figure, short, spread

MOST_COLUMNS = 3  # of searched keys on the screen
UNRANKED = ("done", "running", "interrupted", "pruned", "failed", "waiting")


def rows(view: SweepView) -> list[dict[str, Any]]:
    """A row per trial: done ones ranked, the best first; then the others, state by state.

    Keys: each searched one; ``rank`` (None where there is no figure to rank by), ``trial``, ``state``,
    ``mean``, ``std`` (n - 1) and ``n`` over the seeds that came to their end, ``low`` and ``high`` of the
    95 % interval for the mean, ``best`` (the best epoch of any seed), ``epochs`` (the furthest that any
    seed came), ``seconds``, ``run`` (run directories), ``reason`` (its first line), ``same_as``.
    """
    ranked = [trial for trial in view.ranking if math.isfinite(trial.value or 0.0)]
    places = {trial.number: place for place, trial in enumerate(ranked, start=1)}
    return [_row(view, trial, places.get(trial.number)) for trial in [*ranked, *_others(view, places)]]


def best_epoch(view: SweepView, trial: TrialView) -> float | None:
    """The best figure that any of its seeds reached in any epoch, also one that was cut short."""
    reached = [value for curve in trial.curves.values() for value in curve.values()]
    finite = [value for value in (*reached, *trial.values.values()) if math.isfinite(value)]
    return (max if view.maximize else min)(finite, default=None)


def as_csv(view: SweepView) -> str:
    """The same for other programs; figures with all their digits, run directories joined by ``;``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        map(_cell, ["rank", "trial", "state", view.metric, "std", "n", "low", "high", *view.space,
                    "seconds", "run", "reason"])
    )  # fmt: skip
    names = ["rank", "trial", "state", "mean", "std", "n", "low", "high", *view.space, "seconds"]
    for row in rows(view):
        run = ";".join(str(place) for place in row["run"])
        writer.writerow(map(_cell, [*(row[name] for name in names), run, row["reason"]]))
    return text.getvalue()


def table(view: SweepView, limit: int | None = None) -> Table:
    """The first ``limit`` rows for the terminal."""
    made = rows(view)
    shown = made[:limit]
    repeated = any(row["n"] > 1 for row in shown)
    together = len(view.space) > MOST_COLUMNS
    keys = [] if together else list(view.space)
    result = Table(box=None, header_style="bold")
    for name in ["", view.metric, *(["95 %", "n"] if repeated else []), "time", "trial"]:
        result.add_column(Text(name), justify="right", no_wrap=True)
    names = _last_names(view)
    for name in [*(names[key] for key in keys), *(["values"] if together else [])]:
        result.add_column(Text(printable(name)), overflow="fold", min_width=min(len(name), 11))
    result.add_column("state", overflow="fold", min_width=len("interrupted"))
    for row in shown:
        cells = [
            "" if row["rank"] is None else str(row["rank"]), figure(row["mean"]),
            *([_half(row), str(row["n"])] if repeated else []),
            duration(row["seconds"]), str(row["trial"]),
            *(short(row[key] or "-") for key in keys), *([_values(view, row)] if together else []),
            _state(row),
        ]  # fmt: skip
        result.add_row(*(Text(printable(cell)) for cell in cells), style="bold" if row["rank"] == 1 else None)
    notes = ["± is the 95 % interval for the mean over n seeds"] if repeated else []
    if len(made) > len(shown):
        notes.append(f"{len(made) - len(shown):,} more in leaderboard.csv")
    if view.stand_in_for is not None:
        notes.append(f"on a stand-in for {printable(view.stand_in_for)}, not on its images")
    result.caption = Text("; ".join(notes), style="red" if view.stand_in_for is not None else "dim")
    result.caption_justify = "left"
    return result


def _others(view: SweepView, ranked: dict[int, int]) -> list[TrialView]:
    """Trials that have no rank; those that got somewhere by how far they got."""

    def order(trial: TrialView) -> tuple[int, float, int]:
        reached = best_epoch(view, trial)
        loss = math.inf if reached is None else -reached if view.maximize else reached
        group = UNRANKED.index(trial.state) if trial.state in UNRANKED else len(UNRANKED)
        return group, loss if trial.state in ("running", "interrupted", "pruned") else 0.0, trial.number

    return sorted((trial for trial in view.trials if trial.number not in ranked), key=order)


def _row(view: SweepView, trial: TrialView, rank: int | None) -> dict[str, Any]:
    values = list(trial.values.values())
    interval = t_interval(values)
    reached = [epoch for curve in trial.curves.values() for epoch in curve]
    return {
        **{key: trial.params.get(key) for key in view.space},
        "rank": rank,
        "trial": trial.number,
        "state": trial.state,
        "mean": fmean(values) if values else None,
        "std": stdev(values) if interval is not None else None,
        "n": len(values),
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "best": best_epoch(view, trial),
        "epochs": max(reached, default=0),
        "seconds": trial.seconds,
        "run": [trial.runs[seed] for seed in sorted(trial.runs)],
        "reason": trial.reason.strip().partition("\n")[0] if trial.reason else None,
        "same_as": trial.same_as,
    }


def _half(row: dict[str, Any]) -> str:
    return "-" if row["low"] is None else f"± {spread((row['high'] - row['low']) / 2)}"


def _values(view: SweepView, row: dict[str, Any]) -> str:
    """Many searched keys in one column."""
    names = _last_names(view)
    return " ".join(f"{names[key]}={short(row[key])}" for key in view.space if row[key] is not None)


def _last_names(view: SweepView) -> dict[str, str]:
    """``optimizer.lr`` as ``lr``, where no other searched key ends so."""
    last = [key.rpartition(".")[2] for key in view.space]
    return {key: name if last.count(name) == 1 else key for key, name in zip(view.space, last, strict=True)}


def _state(row: dict[str, Any]) -> str:
    if row["same_as"] is not None:
        return f"{row['state']}, as trial {row['same_as']}"
    failed = row["state"] == "failed" and row["reason"]
    return f"failed: {short(row['reason'], 60)}" if failed else str(row["state"])


def _cell(value: Any) -> str:
    return "" if value is None else printable(str(value))
