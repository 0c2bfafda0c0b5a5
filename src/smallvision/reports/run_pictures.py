"""The pictures of one run: how it learnt, how its time went, whether its probabilities can be trusted."""

import math
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from smallvision.reports import drawing
from smallvision.reports.drawing import COLOURS
from smallvision.reports.judged import Evaluation
from smallvision.reports.pages import NoPicture
from smallvision.reports.run_view import RunView
from smallvision.reports.statistics import wilson

Points = list[tuple[float, float]]


def learning(view: RunView, what: str) -> Markup:
    """``what`` (loss or acc) by epoch, of training and validation, with the chosen epoch marked."""
    train, val = column(view, f"train/{what}"), column(view, f"val/{what}")
    if not train and not val:
        raise NoPicture("There is a curve once an epoch has come to its end.")

    def draw(axes: Axes) -> None:
        _marked(axes, view)
        _line(axes, train, "pruned")
        _line(axes, val, "trial")
        axes.margins(y=0.06)
        drawing.epochs_along(axes, len(view.rows))

    words = "loss" if what == "loss" else "accuracy"
    return drawing.picture(f"curve-{what}", f"{words} by epoch, of training and validation", draw)


def rate(view: RunView) -> Markup:
    """The learning rate at each epoch's end."""
    points = column(view, "lr")
    if not points:
        raise NoPicture("There is a curve once an epoch has come to its end.")

    def draw(axes: Axes) -> None:
        _line(axes, points, "ink")
        axes.set_ylim(0, 1.06 * max(value for _, value in points) or 1)
        drawing.epochs_along(axes, len(view.rows))

    return drawing.picture("curve-lr", "learning rate by epoch", draw)


def time(view: RunView) -> Markup:
    """Seconds of each epoch, one on top of the other: steps, validation, the rest."""
    epochs = view.epoch_seconds
    if not epochs:
        raise NoPicture("There is a picture once an epoch has come to its end.")
    first = len(view.rows) - len(epochs) + 1

    def draw(axes: Axes) -> None:
        places = [first + place for place in range(len(epochs))]
        below = [0.0] * len(epochs)
        for part, colour in (("train", "trial"), ("val", "best"), ("rest", "pruned")):
            heights = [epoch[part] for epoch in epochs]
            axes.bar(places, heights, 0.8, below, color=COLOURS[colour], linewidth=0)
            below = [one + other for one, other in zip(below, heights, strict=True)]
        axes.set_ylabel("seconds")
        drawing.epochs_along(axes, len(view.rows))
        axes.set_xlim(0.5, len(view.rows) + 0.5)

    return drawing.picture("time", "seconds of each epoch: steps, validation and the rest", draw)


def reliability(judged: Evaluation) -> Markup:
    """The share of right answers by confidence, with its 95 % interval; on the diagonal it is honest."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=COLOURS["quiet"], linewidth=0.8, linestyle=(0, (4, 3)))
        total = len(judged.labels)
        for one in judged.bins:
            low, high = wilson(one.right, one.count)
            settings: Any = {"color": COLOURS["trial"], "solid_capstyle": "butt"}
            axes.plot([one.confidence] * 2, [low, high], linewidth=1.5, alpha=0.45, **settings)
            size = 3.5 + 6 * math.sqrt(one.count / total)
            axes.plot(
                [one.confidence], [one.right / one.count], marker="o", markersize=size, markeredgewidth=0,
                color=COLOURS["trial"],
            )  # fmt: skip
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel("probability that the network gives its answer")
        axes.set_ylabel("share of right answers")

    return drawing.picture("reliability", "share of right answers by the network's own probability", draw)


def column(view: RunView, name: str) -> Points:
    """Epoch and finite value of one column of metrics.csv."""
    found = [(row["epoch"], row.get(name)) for row in view.rows]
    return [(epoch, value) for epoch, value in found if epoch and value is not None and math.isfinite(value)]


def _line(axes: Axes, points: Points, colour: str) -> None:
    places, values = [place for place, _ in points], [value for _, value in points]
    few = {"marker": "o", "markersize": 3.5 if len(points) > 1 else 6} if len(points) <= 30 else {}
    axes.plot(places, values, color=COLOURS[colour], linewidth=1.6, markeredgewidth=0, **few)  # type: ignore[arg-type]


def _marked(axes: Axes, view: RunView) -> None:
    if view.best_epoch and len(view.rows) > 1:
        axes.axvline(view.best_epoch, color=COLOURS["best"], linewidth=1.2)
