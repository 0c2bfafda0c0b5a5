"""The ground of a descent's picture: a curve, or the contours of a surface."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from smallvision.tasks.descent.functions import Function
from smallvision.tasks.descent.walk import Walk

INK, QUIET, GROUND = "#22303a", "#5b6b76", "#a8b8c2"
PALE = LinearSegmentedColormap.from_list("pale", ["#ffffff", "#f3f6f8", "#e3eaee", "#d0dae1"])
START: dict[str, Any] = {"marker": "o", "ms": 11, "mfc": "none", "mec": INK, "mew": 1.2, "ls": ""}
MINIMUM: dict[str, Any] = {"marker": "+", "ms": 11, "mec": INK, "mew": 1.6, "ls": ""}
LEVELS = 16  # contours
Span = tuple[float, float]
Spot = tuple[float, float]
Frame = tuple[Span, Span]


def landscape(axes: Axes, function: Function, walks: Sequence[Walk]) -> Frame:
    """Draw it where the walks are, but for what of them leads far away; low and high end of both axes."""
    spans = [span(axis, function, walks) for axis in range(len(function.view))]
    frame = curve(axes, function, spans[0]) if len(spans) == 1 else surface(axes, function, spans[0], spans[1])
    axes.set_xlim(*frame[0])
    axes.set_ylim(*frame[1])
    start = walks[0].places[0]
    axes.plot([start[0]], [function.at(start) if len(start) == 1 else start[1]], zorder=5, **START)
    for low in function.minima:
        axes.plot([low[0]], [function.lowest if len(low) == 1 else low[1]], zorder=7, **MINIMUM)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("x", fontsize=9, color=QUIET)
    return frame


def span(axis: int, function: Function, walks: Sequence[Walk]) -> Span:
    """The function's own view, wider for the start and for what lies up to half of it beyond."""
    low, high = function.view[axis]
    start = walks[0].places[0][axis]
    low, high = min(low, start), max(high, start)
    room = (high - low) / 2
    near = [place[axis] for walk in walks for place in walk.places]
    near = [one for one in near if low - room < one < high + room]
    return with_margin(min([*near, low]), max([*near, high]), 0.03)


def with_margin(low: float, high: float, share: float) -> Span:
    return low - share * (high - low), high + share * (high - low)


def curve(axes: Axes, function: Function, along: Span) -> Frame:
    xs = torch.linspace(*along, 400, dtype=torch.float64)
    values = function.value(xs[:, None])
    axes.plot(xs.numpy(), values.numpy(), color=GROUND, lw=2.2, zorder=2, solid_capstyle="round")
    return along, with_margin(function.lowest, float(values.max()), 0.06)


def surface(axes: Axes, function: Function, along: Span, across: Span) -> Frame:
    """Contours by equal factors of height, since all that matters happens low down."""
    xs = torch.linspace(*along, 300, dtype=torch.float64)
    ys = torch.linspace(*across, 300, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
    heights = (function.value(points) - function.lowest).numpy()
    levels = np.geomspace(float(np.quantile(heights, 0.004)), float(heights.max()), LEVELS)
    shades = np.log(np.maximum(heights, levels[0] / 2))
    axes.contourf(xs, ys, shades, np.log([levels[0] / 2, *levels]), cmap=PALE)
    axes.contour(xs, ys, heights, levels, colors=GROUND, linewidths=0.6)
    axes.set_ylabel("y", fontsize=9, color=QUIET)
    return along, across


def until_far(points: Sequence[Spot], frame: Frame, reach: float = 5) -> list[Spot]:
    """The points up to the first that lies outside of the frame by far, that one where the way there ends.

    ``reach``: of what is drawn, from the frame's middle, in its widths and heights. Numbers may be larger
    than can be drawn, and what follows is out of sight.
    """
    middles = [(low + high) / 2 for low, high in frame]
    reaches = [reach * (high - low) for low, high in frame]
    kept = [points[0]]
    for point in points[1:]:
        shares = [
            (middle + math.copysign(most, one - middle) - was) / (one - was)
            for one, was, middle, most in zip(point, kept[-1], middles, reaches, strict=True)
            if abs(one - middle) > most
        ]
        if shares:
            (x, y), share = kept[-1], min(shares)
            return [*kept, (x + share * (point[0] - x), y + share * (point[1] - y))]
        kept.append(point)
    return kept
