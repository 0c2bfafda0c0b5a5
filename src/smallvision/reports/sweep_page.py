"""A sweep as one page, ``sweep.html``, that needs nothing but itself: no script, no font, no request."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from smallvision.core import run_dir as runs
from smallvision.core.run_dir import write_text
from smallvision.reports import leaderboard, searched, sweep_pictures
from smallvision.reports.drawing import limits
from smallvision.reports.pages import drawn, render
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_standing import failures, standing
from smallvision.reports.sweep_view import SweepView, TrialView

SHOWN, MOST = 25, 200  # rows of a table at once, and at most; leaderboard.csv has them all
MOST_SLICES = 12


def write_page(view: SweepView, path: Path) -> None:
    """Write the page, whole or not at all. What is in it of files and command lines is shown, not obeyed."""
    write_text(path, page(view))


def page(view: SweepView) -> str:
    rows = leaderboard.rows(view)
    best = next((trial for trial in view.ranking if math.isfinite(trial.value or 0.0)), None)
    return render(
        "sweep_page.html",
        view=view,
        **standing(view),
        best=_best(view, best) if best else None,
        ranked=_bars(view, [row for row in rows if row["rank"] is not None]),
        odd=[row for row in rows if row["rank"] is None and row["state"] == "done"],
        pruned=[row for row in rows if row["state"] == "pruned"],
        going=[row for row in rows if row["state"] in ("running", "interrupted")],
        failures=failures(view),
        repeated=any(row["n"] > 1 for row in rows),
        pictures=_pictures(view, best),
        shown=SHOWN,
        most=MOST,
    )


def _best(view: SweepView, trial: TrialView) -> dict[str, Any]:
    """The winner: its figures, what they are worth, and the command lines that run it again."""
    interval = t_interval(list(trial.values.values()))
    rivals = [other for other in view.ranking if other is not trial and _reaches(view, other, interval)]
    return {
        "trial": trial,
        "interval": interval,
        "half": (interval[1] - interval[0]) / 2 if interval else None,
        "seeds": [(seed, value, _link(view, trial.runs.get(seed))) for seed, value in sorted(trial.values.items())],
        "rivals": len(rivals),
        "command": runs.command(*view.command(trial)),
        "test": sum(view.test.values()) / len(view.test) if view.test else None,
        "test_interval": t_interval(list(view.test.values())),
    }


def _reaches(view: SweepView, other: TrialView, winner: tuple[float, float] | None) -> bool:
    interval = t_interval(list(other.values.values()))
    if interval is None or winner is None or other.same_as is not None:
        return False
    return interval[1] >= winner[0] if view.maximize else interval[0] <= winner[1]


def _link(view: SweepView, run: Path | None) -> str | None:
    """A run directory as seen from the page, which lies in the sweep's."""
    if run is None:
        return None
    try:
        return "./" + quote(os.path.relpath(run, view.directory).replace(os.sep, "/"), errors="replace") + "/"
    except ValueError:  # another drive
        return None


def _bars(view: SweepView, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their mean and interval as places from 0 to 100 along one scale."""
    top = rows[:SHOWN]
    if not top:
        return []
    low, high = limits([row["mean"] for row in top], view.maximize)
    half = max((row["high"] - row["mean"] for row in top[: len(top) // 2 + 1] if row["high"]), default=0.0)
    low, high = low - half, high + half

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)

    return [row | {"at": place(row["mean"]), "from": place(row["low"]), "to": place(row["high"])} for row in rows]


def _pictures(view: SweepView, best: TrialView | None) -> dict[str, Any]:
    """Every picture, or the sentence that stands in its place."""
    curves = drawn(lambda: sweep_pictures.curves(view))
    shares = drawn(lambda: searched.importance(view))
    keys = list(view.space)
    if shares["made"]:
        keys.sort(key=lambda key: -shares["made"][0].get(key, 0.0))
    sliced = keys[:MOST_SLICES] if len(searched.evidence(view)) > 1 else []
    return {
        "history": drawn(lambda: sweep_pictures.history(view)),
        "curves": curves,
        "importance": shares,
        "slices": [
            (key, drawn(partial(sweep_pictures.slice_along, view, key, f"slice{place}")))
            for place, key in enumerate(sliced)
        ],
        "left_out": keys[MOST_SLICES:],
        "seeds": drawn(lambda: sweep_pictures.repetitions(view, best)) if best and not view.space else None,
    }
