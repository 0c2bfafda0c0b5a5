"""A sweep as one page, ``sweep.html``."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from smallvision.core.errors import printable
from smallvision.core.run_dir import command, write_text
from smallvision.reports import leaderboard, plots
from smallvision.reports.formatting import shorten
from smallvision.reports.importance import Axis, importance, measured_trials
from smallvision.reports.leaderboard import Ranked
from smallvision.reports.pages import attempt, render
from smallvision.reports.plots import COLORS, Plot, new_plot
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_view import STATES, SweepView, TrialView

SHOWN_ROWS, MAX_ROWS = 25, 200  # of a table at once, and at most; leaderboard.csv has them all
MAX_SLICES = 12
MAX_CURVES = 200
MAX_CATEGORIES = 16
MAX_REASONS, MAX_REASON_LENGTH = 20, 6_000


def write_page(view: SweepView, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(view))


def page(view: SweepView) -> str:
    trials = leaderboard.ranked(view)
    ranking = [(rank, trial) for rank, trial in trials if rank is not None]
    unranked = [trial for rank, trial in trials if rank is None]
    best = ranking[0][1] if ranking else None
    matters = attempt(importance, view)
    keys = sorted(view.space, key=lambda key: -(matters.content.fractions if matters.content else {}).get(key, 0.0))
    sliced = keys[:MAX_SLICES] if len(measured_trials(view)) > 1 else []
    reasons = failures(view)
    return render(
        "sweep_page.html",
        view=view,
        progress=progress(view),
        best=best,
        winner=winner(view, best) if best else {},
        ranking=ranking,
        bars=bars(view, ranking),
        without_metric=[trial for trial in unranked if trial.state == "done"],
        pruned=[trial for trial in unranked if trial.state == "pruned"],
        unfinished=[trial for trial in unranked if trial.state in ("running", "interrupted")],
        failures=reasons[:MAX_REASONS],
        other_failures=sorted(number for one in reasons[MAX_REASONS:] for number in one["numbers"]),
        repeated=any(len(trial.values) > 1 for trial in view.trials),
        importance=matters,
        history=attempt(history, view),
        curves=attempt(curves, view),
        curve_count=len(trials_with_curves(view)),
        slices=[(key, attempt(slice_along, view, key, f"slice{place}")) for place, key in enumerate(sliced)],
        keys_left_out=keys[MAX_SLICES:],
        seeds=attempt(seeds, view, best) if best and not view.space else None,
        shown_rows=SHOWN_ROWS,
        max_rows=MAX_ROWS,
        max_curves=MAX_CURVES,
    )


def progress(view: SweepView) -> dict[str, Any]:
    """How far the sweep is. ``parts``: state, count and percentage of the planned trials."""
    counts = Counter(trial.state for trial in view.trials)
    planned = max(view.planned, len(view.trials), 1)
    missing = planned - sum(counts[state] for state in STATES if state != "waiting")
    if view.planned and missing > 0:
        counts["waiting"] = missing
    over = counts["done"] + counts["pruned"] + counts["failed"]
    times = [trial.seconds for trial in view.trials if trial.seconds is not None and trial.same_as is None]
    began = min((trial.began for trial in view.trials if trial.began is not None), default=None)
    ended = max((trial.ended for trial in view.trials if trial.ended is not None), default=None)
    is_over = bool(view.trials) and over == sum(counts[state] for state in STATES)
    return {
        "parts": [(state, counts[state], 100 * counts[state] / planned) for state in STATES if counts[state]],
        "planned": planned,
        "over": over,
        "is_over": is_over,
        "seconds": sum(times) if times else None,
        "began": began.strftime("%Y-%m-%d %H:%M") if began else None,
        "elapsed": (ended - began).total_seconds() if began and ended and is_over else None,
    }


def winner(view: SweepView, best: TrialView) -> dict[str, Any]:
    """The metrics of the best trial, how certain they are, and the command line that runs it again."""
    rivals = [trial for trial in view.ranking if trial is not best and trial.same_as is None]
    return {
        "seeds": [(seed, value, link(view, best.runs.get(seed))) for seed, value in sorted(best.values.items())],
        "rivals": sum(overlaps(best.interval, trial.interval, view.maximize) for trial in rivals),
        "command": command(*view.command(best)),
        "test": fmean(view.test.values()) if view.test else None,
        "test_interval": t_interval(view.test.values()),
    }


def overlaps(best: tuple[float, float] | None, other: tuple[float, float] | None, maximize: bool) -> bool:
    if best is None or other is None:
        return False
    return other[1] >= best[0] if maximize else other[0] <= best[1]


def link(view: SweepView, run: Path | None) -> str | None:
    """A run directory as seen from the page, which lies in the sweep's."""
    if run is None:
        return None
    try:
        return "./" + quote(os.path.relpath(run, view.directory).replace(os.sep, "/"), errors="replace") + "/"
    except ValueError:  # another drive
        return None


def bars(view: SweepView, ranking: Sequence[Ranked]) -> dict[int, list[float | None]]:
    """By trial: the low end of its interval, its mean and the high end, as positions from 0 to 100 along one scale."""
    top = [trial for _, trial in ranking[:SHOWN_ROWS]]
    if not top:
        return {}
    low, high = plots.limits([trial.value or 0.0 for trial in top], view.maximize)
    half = max((trial.half_interval or 0.0 for trial in top[: len(top) // 2 + 1]), default=0.0)
    low, high = low - half, high + half
    found: dict[int, list[float | None]] = {}
    for _, trial in ranking:
        start, end = trial.interval or (None, None)
        found[trial.number] = [
            None if value is None else round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)
            for value in (start, trial.value, end)
        ]
    return found


def failures(view: SweepView) -> list[dict[str, Any]]:
    """The numbers of the failed trials by the first line of their reason, the most frequent first, each with the rest
    of one reason and one run directory.
    """
    found: dict[str, dict[str, Any]] = {}
    for trial in view.of("failed"):
        first, _, rest = (trial.reason or "").strip().partition("\n")
        one = found.setdefault(first[:500], {"reason": first[:500], "details": "", "numbers": [], "run": None})
        one["numbers"].append(trial.number)
        one["details"] = one["details"] or rest.strip()[-MAX_REASON_LENGTH:]
        one["run"] = one["run"] or next(iter(trial.runs.values()), None)
    return sorted(found.values(), key=lambda one: -len(one["numbers"]))


def history(view: SweepView) -> Markup | None:
    """The metric by trial number, and the best so far as a line; None for fewer than two trials."""
    done = sorted(view.ranking, key=lambda trial: trial.number)
    reached = {trial.number: view.best_epoch(trial) for trial in view.of("pruned")}
    pruned = {number: value for number, value in reached.items() if value is not None}
    if len(done) + len(pruned) < 2:
        return None
    values = [trial.value or 0.0 for trial in done]
    with new_plot("history", f"{printable(view.metric)} by trial number, and the best so far") as plot:
        axes, size = plot.axes, 5 if len(done) <= 200 else 3
        plots.metric_axis(axes, [*values, *pruned.values()], view.maximize)
        numbers = [float(trial.number) for trial in done]
        so_far = list(accumulate(values, max if view.maximize else min))
        axes.step(numbers, so_far, where="post", color=COLORS["best"], linewidth=1.2, zorder=2)
        if len(done) <= 60:
            for trial, value in zip(done, values, strict=True):
                ends = [value - (trial.deviation or 0.0), value + (trial.deviation or 0.0)]
                axes.plot([trial.number] * 2, ends, color=COLORS["trial"], alpha=0.35, linewidth=1.5)
        trial_dots(plot, view, done, numbers, size)
        low, high = axes.get_ylim()
        crosses: dict[str, Any] = {"marker": "x", "linestyle": "", "markersize": size, "markeredgewidth": 1.2}
        clipped = [min(max(value, low), high) for value in pruned.values()]
        axes.plot(list(pruned), clipped, color=COLORS["pruned"], **crosses)
        failed = [trial.number for trial in view.of("failed")]
        worst = [low if view.maximize else high] * len(failed)
        axes.plot(failed, worst, color=COLORS["failed"], clip_on=False, **crosses)
        plots.integer_axis(axes, "trial")
    return plot.svg


def trials_with_curves(view: SweepView) -> list[TrialView]:
    """The best first."""
    trials = [trial for trial in view.trials if trial.same_as is None and trial.mean_curve]
    return sorted(trials, key=lambda trial: (view.loss(trial), trial.number))


def curves(view: SweepView) -> Markup | None:
    """The metric by epoch of each trial, the mean over seeds. Of more than ``MAX_CURVES`` trials, one half of the
    curves are those of the best, and the others are chosen evenly.
    """
    trials, half = trials_with_curves(view), MAX_CURVES // 2
    if not trials:
        return None
    if len(trials) > MAX_CURVES:
        others = trials[half:]
        trials = trials[:half] + [others[place * len(others) // half] for place in range(half)]
    lines = {trial.number: trial.mean_curve for trial in trials}
    with new_plot("curves", f"{printable(view.metric)} by epoch, of {len(trials)} trials") as plot:
        values = [value for line in lines.values() for value in line.values()]
        plots.metric_axis(plot.axes, [min(values), max(values)] if len(trials) == 1 else values, view.maximize)
        alpha = max(0.25, min(0.75, 12 / len(trials)))
        for trial in reversed(trials):
            style: dict[str, Any] = {"color": COLORS["trial"], "alpha": alpha, "linewidth": 1.0}
            if trial.state in ("pruned", "failed", "interrupted"):
                style |= {"color": COLORS["pruned"], "linestyle": (0, (2, 1.5)), "alpha": max(0.85, alpha)}
            if view.best is not None and trial.number == view.best.number:
                style = {"color": COLORS["best"], "linewidth": 2.2, "zorder": 4}
            line = lines[trial.number]
            plot.axes.plot(list(line), list(line.values()), **style)
            if len(line) == 1 or trial.state == "pruned":
                style |= {"marker": "o" if len(line) == 1 else "x", "markersize": 4, "markeredgewidth": 1.0}
                plot.axes.plot(*list(line.items())[-1], **style)
        plots.integer_axis(plot.axes, "epoch")
    return plot.svg


def slice_along(view: SweepView, key: str, name: str) -> Markup | None:
    """The metric of each finished trial by its value of one searched key.

    None for fewer than two trials, or too many categories.
    """
    trials = [trial for trial in measured_trials(view) if key in trial.params]
    values, axis = [trial.value or 0.0 for trial in trials], Axis.of(view, key, trials)
    categories = sorted(set(axis.texts))
    if len(trials) < 2 or (axis.numbers is None and len(categories) > MAX_CATEGORIES):
        return None
    with new_plot(name, f"{printable(view.metric)} against {shorten(printable(key), 80)}", width=4.4) as plot:
        axes = plot.axes
        plots.metric_axis(axes, values, view.maximize)
        if axis.numbers is not None:
            positions = axis.numbers
            plots.number_axis(axes, axis.numbers, axis.log)
        else:
            positions = [categories.index(text) + jitter(place) for place, text in enumerate(axis.texts)]
            axes.set_xticks(range(len(categories)), [shorten(printable(text), 14) for text in categories])
            axes.set_xlim(-0.6, len(categories) - 0.4)
            if sum(min(len(text), 14) for text in categories) > 34:
                axes.tick_params(axis="x", rotation=30)
            for place, category in enumerate(categories):
                middle = median(v for v, text in zip(values, axis.texts, strict=True) if text == category)
                axes.plot([place - 0.28, place + 0.28], [middle, middle], color=COLORS["ink"], linewidth=1.2)
        trial_dots(plot, view, trials, positions, 5 if len(trials) <= 200 else 3)
    return plot.svg


def jitter(place: int) -> float:
    """A step to the side, so that equal values of one category are distinct; multiples of the golden ratio."""
    return 0.36 * ((place * 0.618034) % 1 - 0.5)


def seeds(view: SweepView, trial: TrialView) -> Markup | None:
    """The metric of each seed, their mean and its interval; None for fewer than two seeds."""
    finite = {seed: value for seed, value in trial.values.items() if math.isfinite(value)}
    if len(finite) < 2:
        return None
    values, positions = list(finite.values()), [float(place) for place in range(len(finite))]
    with new_plot("seeds", f"{printable(view.metric)} of each seed, their mean and interval") as plot:
        interval = t_interval(values) or (0.0, 0.0)
        plots.metric_axis(plot.axes, [*values, *interval], view.maximize)
        plot.axes.axhspan(*interval, color=COLORS["best"], alpha=0.14, linewidth=0)
        plot.axes.axhline(fmean(values), color=COLORS["best"], linewidth=1.4)
        plots.dots(plot.axes, positions, values, view.maximize, "trial", 6)
        if len(finite) <= 20:
            plot.axes.set_xticks(positions, [str(seed) for seed in finite])
        plot.axes.set_xlabel("seed")
    return plot.svg


def trial_dots(plot: Plot, view: SweepView, trials: list[TrialView], xs: Sequence[float], size: float) -> None:
    """The metrics of finished trials, that of the best one larger and in its own color."""
    number = view.best.number if view.best else None
    for role, larger, is_best in (("trial", 0, False), ("best", 3, True)):
        chosen = [(x, one.value or 0.0) for x, one in zip(xs, trials, strict=True) if (one.number == number) == is_best]
        plots.dots(plot.axes, [x for x, _ in chosen], [y for _, y in chosen], view.maximize, role, size + larger)
