"""The plots of the pages: of a run, of a comparison and of a sweep, by Matplotlib as SVG within the page.

A plot is drawn in the light colours of ``templates/page.css``. The style sheet replaces each of them by its variable,
so that the same SVG is shown in light and in dark.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from smallvision.core.errors import printable
from smallvision.reports.evaluation import Evaluation
from smallvision.reports.formatting import metric, shorten
from smallvision.reports.run_view import RunView
from smallvision.reports.statistics import wilson

if TYPE_CHECKING:  # a run's page needs none of them
    from smallvision.reports.comparison import Comparison
    from smallvision.reports.sweep_view import SweepView, TrialView

P = ParamSpec("P")
T = TypeVar("T")
# The light colours of the variables of these names in page.css. Colours that the colour-blind can distinguish:
# M. Okabe and K. Ito, Color Universal Design, 2008.
COLORS = {
    "ink": "#1c2226",
    "quiet": "#5b666d",
    "line": "#dde2e4",
    "trial": "#0072b2",
    "best": "#d55e00",
    "pruned": "#858f96",
    "failed": "#a3447c",
    "running": "#009e73",
    "series-5": "#b08800",
    "series-6": "#3a9bd1",
}
SERIES = ("trial", "best", "running", "failed", "series-5", "series-6")  # of lines that are compared
STYLE = str(resources.files("smallvision.reports") / "templates/plots.mplstyle")
METADATA = ("Date", "Creator", "Format", "Type")  # that would differ from one drawing to the next
MAX_CURVES = 200  # of trials
MAX_POINTS = 800  # of a curve
TIME_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
MAX_CATEGORIES = 16  # of a searched key


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of a page that could be made (``content``, None where there is too little data), or the ``error``."""

    content: T | None = None
    error: str | None = None


def attempt(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Part[T]:
    """What ``make`` gives: one plot that fails does not take the page with it."""
    try:
        return Part(make(*args, **kwargs))
    except Exception as error:  # of matplotlib, scipy or Optuna
        return Part(error=f"{type(error).__name__}: {shorten(str(error), 300)}")


@dataclass
class Plot:
    """``svg`` is there once it is drawn."""

    axes: Axes
    svg: Markup = field(default_factory=Markup)


@contextmanager
def new_plot(name: str, description: str, width: float = 5.1) -> Iterator[Plot]:
    """A plot to draw in the block; afterwards it has its ``<svg>``, the same bytes for the same data.

    ``name``: unique within the page; ``description``: read out where the plot cannot be seen; ``width``: in inches.
    """
    with warnings.catch_warnings(), matplotlib.rc_context(fname=STYLE):
        warnings.simplefilter("ignore")  # of letters that matplotlib's own font lacks: the page has another
        matplotlib.rcParams["svg.hashsalt"] = name  # ids that no other plot of the page has
        figure, text = Figure(figsize=(width, 3.3)), io.StringIO()
        plot = Plot(figure.subplots())
        yield plot
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    _, start, content = text.getvalue().replace('<g id="', f'<g id="{name}-').partition("<svg ")
    plot.svg = Markup(f'{start}role="img" aria-label="{escape(description)}" {content}')


def limits(values: Iterable[float], maximize: bool) -> tuple[float, float]:
    """The range of a metric's axis.

    Towards worse values it ends four times as far from the median as the best value is, so that one hopeless trial
    does not press all others into a line.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    low, high, median = float(finite.min()), float(finite.max()), float(np.median(finite))
    if maximize and high > median:
        low = max(low, median - 4 * (high - median))
    if not maximize and low < median:
        high = min(high, median + 4 * (median - low))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def metric_axis(axes: Axes, values: Iterable[float], maximize: bool) -> None:
    axes.set_ylim(*limits(values, maximize))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def integer_axis(axes: Axes, label: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.set_xlabel(label)


def number_axis(axes: Axes, numbers: list[float], log: bool) -> None:
    """The values of a searched key: ticks at decades where there are several; else, where they are few, at each."""
    distinct = sorted(set(numbers))
    decades = math.floor(math.log10(distinct[-1])) - math.ceil(math.log10(distinct[0])) if log else 0
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if decades else (1, 2, 5)) if log else MaxNLocator(5))
    if log:
        axes.set_xscale("log")
    if len(distinct) <= 6 and not decades:
        axes.set_xticks(distinct)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))


# Of a run ----------------------------------------------------------------------------------------------------------


def learning_curve(view: RunView, title: str, number: int) -> Markup | None:
    """A metric by epoch, of training and validation where it has both, with the best epoch marked; ``number``: of the
    plot.
    """
    names = view.curves[title]
    curves = [view.points(name) for name in names]
    if max(map(len, curves)) < 2:
        return None
    label = "accuracy" if title == "acc" else title
    both = ", of training and validation" if len(names) == 2 else ""
    with new_plot(f"metric-{number}", f"{label} by epoch{both}") as plot:
        if view.results.best_epoch and len(view.rows) > 1:
            plot.axes.axvline(view.results.best_epoch, color=COLORS["best"], linewidth=1.2)
        for curve, role in zip(curves, ("pruned", "trial")[-len(curves) :], strict=True):
            marker = "o" if len(curve) <= 30 else ""
            xs, ys, color = list(curve), list(curve.values()), COLORS[role]
            plot.axes.plot(xs, ys, color=color, linewidth=1.6, marker=marker, markersize=3.5)
        plot.axes.margins(y=0.06)
        integer_axis(plot.axes, "epoch")
    return plot.svg


def step_loss(view: RunView) -> Markup | None:
    """The loss of each step; of more than ``MAX_POINTS``, mean and range of as many groups."""
    epochs, losses = view.steps["epoch"], view.steps["loss"]
    if len(losses) < 2:
        return None
    starts = np.arange(0, len(losses), -(-len(losses) // MAX_POINTS))
    with new_plot("curve-steps", "loss of each step") as plot:
        low, high = np.minimum.reduceat(losses, starts), np.maximum.reduceat(losses, starts)
        plot.axes.fill_between(epochs[starts], low, high, color=COLORS["trial"], alpha=0.25, linewidth=0)
        means = np.add.reduceat(losses, starts) / np.diff([*starts, len(losses)])
        plot.axes.plot(epochs[starts], means, color=COLORS["trial"], linewidth=1.1)
        plot.axes.set_xlabel("epoch")
    return plot.svg


def learning_rate(view: RunView) -> Markup | None:
    """The learning rate of each step, or, where steps are unknown, at each epoch's end."""
    every = -(-len(view.steps["lr"]) // MAX_POINTS) or 1
    epochs, rates = view.steps["epoch"][::every].tolist(), view.steps["lr"][::every].tolist()
    curve = dict(zip(epochs, rates, strict=True)) or view.column("lr")
    if len(curve) < 2:
        return None
    with new_plot("curve-lr", "learning rate by epoch") as plot:
        plot.axes.plot(list(curve), list(curve.values()), color=COLORS["ink"], linewidth=1.6)
        plot.axes.set_ylim(0, 1.06 * max(curve.values()) or 1)
        plot.axes.set_xlabel("epoch")
    return plot.svg


def epoch_seconds(view: RunView) -> Markup | None:
    """Seconds of each epoch as stacked bars: training steps, validation, the rest."""
    epochs = view.results.seconds.epochs
    if len(epochs) < 2:
        return None
    x = np.arange(len(epochs)) + len(view.rows) - len(epochs) + 1
    with new_plot("time", "seconds of each epoch: steps, validation and the rest") as plot:
        heights = np.array([(epoch.train, epoch.val, epoch.rest) for epoch in epochs]).T
        bottoms = np.cumsum(heights, 0) - heights
        for height, bottom, role in zip(heights, bottoms, ("trial", "best", "pruned"), strict=True):
            plot.axes.bar(x, height, 0.8, bottom, color=COLORS[role], linewidth=0)
        plot.axes.set_ylabel("seconds")
        integer_axis(plot.axes, "epoch")
    return plot.svg


def reliability(evaluation: Evaluation) -> Markup:
    """Accuracy by confidence with 95 % intervals; on the diagonal the probabilities are calibrated."""
    with new_plot("reliability", "accuracy by the network's own probability") as plot:
        axes = plot.axes
        axes.plot([0, 1], [0, 1], color=COLORS["quiet"], linewidth=0.8, linestyle=(0, (4, 3)))
        for one in evaluation.bins:
            interval = wilson(one.correct, one.count)
            size = 3.5 + 6 * math.sqrt(one.count / len(evaluation.labels))
            axes.plot([one.confidence] * 2, interval, color=COLORS["trial"], linewidth=1.5, alpha=0.45)
            axes.plot(one.confidence, one.correct / one.count, "o", color=COLORS["trial"], markersize=size)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        axes.set(xlabel="probability of the predicted class", ylabel="fraction of correct predictions")
    return plot.svg


# Of a comparison ---------------------------------------------------------------------------------------------------


def configurations(comparison: Comparison, name: str) -> Markup | None:
    """val/acc by epoch, the mean over seeds, of each configuration."""
    roles = [*SERIES, *["pruned"] * MAX_CURVES]
    curves = zip(roles, [one.curve for one in comparison.configurations[:MAX_CURVES]], strict=False)
    lines = [(role, curve, 0.5 if role == "pruned" else 1.0) for role, curve in curves]
    return curves_by_epoch(name, "val/acc by epoch of each configuration", lines, maximize=True, width=7.2)


def curves_by_epoch(
    name: str, description: str, lines: list[tuple[str, dict[int, float], float]], maximize: bool, width: float = 5.1
) -> Markup | None:
    """A line for each role, curve and opacity, the first on top; None where no curve has two epochs."""
    if max((len(curve) for _, curve, _ in lines), default=0) < 2:
        return None
    values = [value for _, curve, _ in lines for value in curve.values()]
    with new_plot(name, description, width) as plot:
        metric_axis(plot.axes, values if len(lines) > 1 else [min(values), max(values)], maximize)
        for role, curve, alpha in reversed(lines):
            plot.axes.plot(
                list(curve), list(curve.values()), color=COLORS[role], alpha=alpha, linewidth=1.6 if alpha == 1 else 1,
                marker="o" if len(curve) == 1 else "", markersize=4,
            )  # fmt: skip
        integer_axis(plot.axes, "epoch")
    return plot.svg


# Of a sweep --------------------------------------------------------------------------------------------------------


def history(view: SweepView, against: str = "trial") -> Markup | None:
    """The metric by trial number, and the best so far as a line; ``against`` "time": by the time at which trials ended,
    since the first one began. None for fewer than two trials.
    """
    unit, divisor = next(
        (one for one in TIME_UNITS if max(view.ended_after.values(), default=0.0) > 2 * one[1]), TIME_UNITS[-1]
    )
    xs = {trial.number: float(trial.number) for trial in view.trials}
    if against == "time":
        xs = {number: seconds / divisor for number, seconds in view.ended_after.items()}
    done = sorted((one for one in view.ranking if one.number in xs), key=lambda trial: xs[trial.number])
    reached = [(xs[trial.number], view.best_epoch(trial)) for trial in view.of("pruned") if trial.number in xs]
    pruned = {x: value for x, value in reached if value is not None}
    if len(done) + len(pruned) < 2:
        return None
    values = [trial.value or 0.0 for trial in done]
    with new_plot(f"history-{against}", f"{printable(view.metric)} by {against}, and the best so far") as plot:
        axes, size = plot.axes, 5 if len(done) <= 200 else 3
        metric_axis(axes, [*values, *pruned.values()], view.maximize)
        places = [xs[trial.number] for trial in done]
        so_far = list(accumulate(values, max if view.maximize else min))
        axes.step(places, so_far, where="post", color=COLORS["best"], linewidth=1.2, zorder=2)
        if len(done) <= 60:
            bars = [trial.sample.deviation or 0.0 for trial in done]
            axes.errorbar(places, values, bars, fmt="none", ecolor=COLORS["trial"], alpha=0.35, elinewidth=1.5)
        trial_dots(axes, view, done, places, size)
        low, high = axes.get_ylim()
        failed = {xs[trial.number]: low if view.maximize else high for trial in view.of("failed") if trial.number in xs}
        for role, marks in (("pruned", pruned), ("failed", failed)):
            clipped = np.clip(list(marks.values()), low, high)
            axes.plot(list(marks), clipped, "x", color=COLORS[role], ms=size, mew=1.2, clip_on=role == "pruned")
        if against == "time":
            axes.set_xlim(left=0)
            axes.set_xlabel(unit)
        else:
            integer_axis(axes, "trial")
    return plot.svg


def parallel_coordinates(view: SweepView, keys: list[str]) -> Markup | None:
    """A line per finished trial through its values of ``keys`` and its metric; None for fewer than two of either."""
    from smallvision.reports.importance import Axis

    trials = [trial for trial in view.measured if all(key in trial.params for key in keys)]
    trials = sorted(trials, key=view.loss)[:MAX_CURVES][::-1]
    if len(trials) < 2 or len(keys) < 2:
        return None
    heights, ends = [], []
    for axis in (Axis.of(view, key, trials) for key in keys):
        numbers = [math.log(one) if axis.log else one for one in axis.numbers] if axis.numbers is not None else None
        texts = sorted(set(axis.texts), key=float if numbers else str)
        heights.append(_to_unit(numbers or [float(texts.index(text)) for text in axis.texts]))
        ends.append((shorten(printable(texts[0]), 14), shorten(printable(texts[-1]), 14)))
    losses = [view.loss(trial) for trial in trials]
    heights.append(_to_unit([-loss for loss in losses]))  # the best on top
    ends.append((metric(trials[0].value), metric(trials[-1].value)))
    description = printable(f"each trial's values of {', '.join(keys)} and its {view.metric}")
    with new_plot("parallel", description, width=10.4) as plot:
        axes, xs = plot.axes, range(len(heights))
        for place, line in enumerate(zip(*heights, strict=True)):
            best, strength = place == len(trials) - 1, (place + 1) / len(trials)
            color, alpha = COLORS["best" if best else "trial"], 1 if best else 0.15 + 0.65 * strength**2
            axes.plot(xs, line, color=color, alpha=alpha, linewidth=2.2 if best else 1.0)
        for x, (low, high) in zip(xs, ends, strict=True):
            axes.axvline(x, color=COLORS["line"], linewidth=1, zorder=1)
            axes.annotate(low, (x, 0), (0, -4), textcoords="offset points", ha="center", va="top", fontsize=9)
            axes.annotate(high, (x, 1), (0, 4), textcoords="offset points", ha="center", va="bottom", fontsize=9)
        axes.set_xticks(xs, [shorten(printable(name), 24) for name in (*keys, view.metric)])
        axes.tick_params(axis="x", pad=18)
        axes.set(yticks=[], ylim=(-0.02, 1.1), xlim=(-0.25, len(heights) - 0.75))
        axes.spines["bottom"].set_visible(False)
    return plot.svg


def _to_unit(values: list[float]) -> list[float]:
    """From 0 for the smallest to 1 for the largest; 0.5 where all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def trial_curves(view: SweepView) -> Markup | None:
    """The metric by epoch of each trial, the mean over seeds. Of more than ``MAX_CURVES`` trials, one half of the
    curves are those of the best, and the others are chosen evenly.
    """
    trials, half = view.with_curves, MAX_CURVES // 2
    if len(trials) > MAX_CURVES:
        others = trials[half:]
        trials = trials[:half] + [others[place * len(others) // half] for place in range(half)]
    alpha, lines = max(0.25, min(0.75, 12 / max(len(trials), 1))), []
    for trial in trials:
        role = "pruned" if trial.state in ("pruned", "failed", "interrupted") else "trial"
        role = "best" if view.best is not None and trial.number == view.best.number else role
        lines.append((role, trial.mean_curve, {"trial": alpha, "pruned": 0.85, "best": 1.0}[role]))
    lines.sort(key=lambda line: line[0] != "best")
    return curves_by_epoch(
        "curves", f"{printable(view.metric)} by epoch, of {len(trials)} trials", lines, view.maximize
    )


def slice_along(view: SweepView, key: str, name: str) -> Markup | None:
    """The metric of each finished trial by its value of one searched key.

    None for fewer than two trials, or too many categories.
    """
    from smallvision.reports.importance import Axis

    trials = [trial for trial in view.measured if key in trial.params]
    values, axis = [trial.value or 0.0 for trial in trials], Axis.of(view, key, trials)
    categories = sorted(set(axis.texts))
    if len(trials) < 2 or (axis.numbers is None and len(categories) > MAX_CATEGORIES):
        return None
    with new_plot(name, f"{printable(view.metric)} against {shorten(printable(key), 80)}", width=4.4) as plot:
        axes = plot.axes
        metric_axis(axes, values, view.maximize)
        if axis.numbers is not None:
            positions = axis.numbers
            number_axis(axes, axis.numbers, axis.log)
        else:
            steps = [0.36 * ((place * 0.618034) % 1 - 0.5) for place in range(len(axis.texts))]  # the golden ratio
            positions = [categories.index(text) + step for text, step in zip(axis.texts, steps, strict=True)]
            axes.set_xticks(range(len(categories)), [shorten(printable(text), 14) for text in categories])
            axes.set_xlim(-0.6, len(categories) - 0.4)
            if sum(min(len(text), 14) for text in categories) > 34:
                axes.tick_params(axis="x", rotation=30)
            for place, category in enumerate(categories):
                middle = median(v for v, text in zip(values, axis.texts, strict=True) if text == category)
                axes.plot([place - 0.28, place + 0.28], [middle, middle], color=COLORS["ink"], linewidth=1.2)
        trial_dots(axes, view, trials, positions, 5 if len(trials) <= 200 else 3)
    return plot.svg


def seeds(view: SweepView, trial: TrialView) -> Markup | None:
    """The metric by epoch of each seed, and their mean."""
    lines = [("best", trial.mean_curve, 1.0), *(("trial", curve, 0.6) for curve in trial.curves.values())]
    return curves_by_epoch("seeds", f"{printable(view.metric)} by epoch of each seed", lines, view.maximize)


def trial_dots(axes: Axes, view: SweepView, trials: list[TrialView], xs: Sequence[float], size: float) -> None:
    """The metrics of finished trials, that of the best one larger and in its own color; those outside of the metric's
    axis, which is set before, become arrows at its worse edge.
    """
    (low, high), number = axes.get_ylim(), view.best.number if view.best else None
    for role, alpha, larger in (("trial", 0.8, 0), ("best", 1.0, 3)):
        of_role = [(x, one.value) for x, one in zip(xs, trials, strict=True) if (one.number == number) == (larger > 0)]
        points = np.array(of_role, float).reshape(-1, 2)
        inside = (low <= points[:, 1]) & (points[:, 1] <= high)
        # Lines of no length with round ends, all in one path: as markers, a thousand dots would take 100 KB a plot.
        path = np.repeat(points[inside], 3, axis=0)
        path[2::3] = np.nan
        axes.plot(*path.T, color=COLORS[role], linewidth=size + larger, solid_capstyle="round", alpha=alpha, zorder=3)
        marker, edge = ("v", low) if view.maximize else ("^", high)
        xs_outside = points[~inside, 0]
        ys_outside = np.full(len(xs_outside), edge)
        axes.plot(xs_outside, ys_outside, marker, color=COLORS[role], ms=size + larger, clip_on=False, zorder=3)
