"""The pictures of a sweep: how it went, how its trials learnt, and the figure along each searched key."""

import math
from itertools import accumulate
from statistics import fmean, median
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from smallvision.core.errors import printable
from smallvision.reports import drawing
from smallvision.reports.drawing import COLOURS, dots, figures_up, limits
from smallvision.reports.leaderboard import best_epoch
from smallvision.reports.pages import NoPicture
from smallvision.reports.searched import axis, evidence
from smallvision.reports.statistics import t_interval
from smallvision.reports.sweep_view import SweepView, TrialView
from smallvision.reports.words import short

MOST_CURVES = 200
MOST_WORDS = 16


def history(view: SweepView) -> Markup:
    """The figure by trial number, and the best so far as a line."""
    done = sorted(view.ranking, key=lambda trial: trial.number)
    done = [trial for trial in done if math.isfinite(trial.value or 0.0)]
    cut = [(trial.number, best_epoch(view, trial)) for trial in view.of("pruned")]
    pruned = [(number, reached) for number, reached in cut if reached is not None]
    if len(done) + len(pruned) < 2:
        raise NoPicture("There is a history once two trials have come to an end.")
    values = [trial.value or 0.0 for trial in done]

    def draw(axes: Axes) -> None:
        figures_up(axes, limits([*values, *(reached for _, reached in pruned)], view.maximize))
        places = [float(trial.number) for trial in done]
        best = list(accumulate(values, max if view.maximize else min))
        axes.step(places, best, where="post", color=COLOURS["best"], linewidth=1.2, zorder=2)
        if len(done) <= 60:
            for place, trial in zip(places, done, strict=True):
                spread = trial.deviation or 0.0
                ends = [(trial.value or 0.0) - spread, (trial.value or 0.0) + spread]
                axes.plot([place, place], ends, color=COLOURS["trial"], alpha=0.35, linewidth=1.5)
        size = 5 if len(done) <= 200 else 3
        _points(axes, view, done, places, size)
        crosses: dict[str, Any] = {"marker": "x", "linestyle": "", "markersize": size, "markeredgewidth": 1.2}
        low, high = axes.get_ylim()
        axes.plot(
            [number for number, _ in pruned], [min(max(reached, low), high) for _, reached in pruned],
            color=COLOURS["pruned"], **crosses,
        )  # fmt: skip
        failed = [trial.number for trial in view.of("failed")]
        edge = low if view.maximize else high
        axes.plot(failed, [edge] * len(failed), color=COLOURS["failed"], clip_on=False, **crosses)
        drawing.whole_numbers_along(axes)
        axes.set_xlabel("trial")

    return drawing.picture("history", f"{printable(view.metric)} by trial number, and the best so far", draw)


def curves(view: SweepView) -> tuple[Markup, int, int]:
    """The mean over seeds by epoch, of each trial; with how many are drawn, and of how many.

    Of more than ``MOST_CURVES``, the better half and an even choice of the others.
    """
    lines = {trial.number: line for trial in view.trials if len(line := _mean_curve(trial)) > 0}
    trials = [trial for trial in view.trials if trial.number in lines and trial.same_as is None]
    if not trials:
        raise NoPicture("There are curves once a trial has validated an epoch.")
    trials.sort(key=lambda trial: (view.loss(trial), trial.number))
    total, best = len(trials), view.best
    if total > MOST_CURVES:
        half, rest = trials[: MOST_CURVES // 2], trials[MOST_CURVES // 2 :]
        trials = half + [rest[place * len(rest) // (MOST_CURVES // 2)] for place in range(MOST_CURVES // 2)]

    def draw(axes: Axes) -> None:
        seen = [value for trial in trials for _, value in lines[trial.number]]
        few = [min(seen), max(seen)] if len(trials) == 1 else seen
        figures_up(axes, limits(few, view.maximize))
        faint = max(0.25, min(0.75, 12 / len(trials)))
        for trial in reversed(trials):
            first = best is not None and trial.number == best.number
            style: dict[str, Any] = {"color": COLOURS["trial"], "alpha": faint, "linewidth": 1.0}
            if trial.state in ("pruned", "failed", "interrupted"):
                style |= {"color": COLOURS["pruned"], "linestyle": (0, (2, 1.5)), "alpha": max(0.85, faint)}
            if first:
                style = {"color": COLOURS["best"], "linewidth": 2.2, "zorder": 4}
            line = lines[trial.number]
            axes.plot([epoch for epoch, _ in line], [value for _, value in line], **style)
            if len(line) == 1 or trial.state == "pruned":
                axes.plot(*line[-1], marker="o" if len(line) == 1 else "x", markersize=4, **style)
        drawing.whole_numbers_along(axes)
        axes.set_xlabel("epoch")

    svg = drawing.picture("curves", f"{printable(view.metric)} by epoch, of {len(trials)} trials", draw)
    return svg, len(trials), total


def slice_along(view: SweepView, key: str, name: str) -> Markup:
    """The figure of each finished trial by its value of one searched key."""
    trials = [trial for trial in evidence(view) if key in trial.params]
    if len(trials) < 2:
        raise NoPicture("There is a picture once two trials are finished.")
    values, along = [trial.value or 0.0 for trial in trials], axis(view, key, trials)
    order = sorted(set(along.words))
    if along.numbers is None and len(order) > MOST_WORDS:
        raise NoPicture(f"{len(order)} different words are too many to stand side by side.")

    def draw(axes: Axes) -> None:
        figures_up(axes, limits(values, view.maximize))
        if along.numbers is None:
            places = [order.index(word) + _aside(place) for place, word in enumerate(along.words)]
            axes.set_xticks(range(len(order)), [short(printable(word), 14) for word in order])
            axes.set_xlim(-0.6, len(order) - 0.4)
            if sum(min(len(word), 14) for word in order) > 34:
                axes.tick_params(axis="x", rotation=30)
            for place, word in enumerate(order):
                middle = median(v for v, one in zip(values, along.words, strict=True) if one == word)
                axes.plot([place - 0.28, place + 0.28], [middle, middle], color=COLOURS["ink"], linewidth=1.2)
        else:
            places = along.numbers
            drawing.numbers_along(axes, along.numbers, along.log)
        _points(axes, view, trials, places, 5 if len(trials) <= 200 else 3)

    says = f"{printable(view.metric)} against {short(printable(key), 80)}"
    return drawing.picture(name, says, draw, width=4.4)


def repetitions(view: SweepView, trial: TrialView) -> Markup:
    """The figure of each seed, their mean and its interval."""
    known = {seed: value for seed, value in trial.values.items() if math.isfinite(value)}
    if len(known) < 2:
        raise NoPicture("There is a picture once two seeds have come to their end.")

    def draw(axes: Axes) -> None:
        interval = t_interval(list(known.values())) or (0.0, 0.0)
        figures_up(axes, limits([*known.values(), *interval], view.maximize))
        axes.axhspan(*interval, color=COLOURS["best"], alpha=0.14, linewidth=0)
        axes.axhline(fmean(known.values()), color=COLOURS["best"], linewidth=1.4)
        places = [float(place) for place in range(len(known))]
        dots(axes, places, list(known.values()), view.maximize, "trial", 6)
        if len(known) <= 20:
            axes.set_xticks(places, [str(seed) for seed in known])
        axes.set_xlabel("seed")

    return drawing.picture("seeds", f"{printable(view.metric)} of each seed, their mean and interval", draw)


def _points(axes: Axes, view: SweepView, trials: list[TrialView], places: list[float], size: float) -> None:
    """The figures of finished trials, that of the best set apart."""
    best = view.best
    for colour, larger, first in (("trial", 0, False), ("best", 3, True)):
        chosen = [
            (place, trial.value or 0.0)
            for place, trial in zip(places, trials, strict=True)
            if (best is not None and trial.number == best.number) == first
        ]
        dots(axes, [x for x, _ in chosen], [y for _, y in chosen], view.maximize, colour, size + larger)


def _mean_curve(trial: TrialView) -> list[tuple[int, float]]:
    """Epochs that any seed validated, each with the mean over those that did."""
    found: dict[int, list[float]] = {}
    for curve in trial.curves.values():
        for epoch, value in curve.items():
            if math.isfinite(value):
                found.setdefault(epoch, []).append(value)
    return [(epoch, fmean(found[epoch])) for epoch in sorted(found)]


def _aside(place: int) -> float:
    """A step to the side, so that equal figures of one word can be told apart; the golden ratio's."""
    return 0.36 * ((place * 0.618034) % 1 - 0.5)
