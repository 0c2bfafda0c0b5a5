"""The plot of task=descent, still or animated: trajectories on the function and their gap, step by step."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from smallvision.tasks.descent.trajectory import Trajectory

# M. Okabe and K. Ito's, which colour-blind readers can tell apart, without the yellow, too faint on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, GREY, CONTOUR = "#22303a", "#5b6b76", "#a8b8c2"
PALE = LinearSegmentedColormap.from_list("pale", ["#ffffff", "#f3f6f8", "#e3eaee", "#d0dae1"])
GAP_RANGE = 1e-9, 1e3  # of the initial gap: the axis extends no further
MAX_MARKERS = 100  # with more steps the markers of single steps would overlap
FRAMES, FRAME_MS, LAST_FRAME_MS, GIF_DPI = 80, 100, 1500, 80
STYLE = {
    "axes.axisbelow": True, "axes.labelcolor": GREY, "axes.labelsize": 9, "axes.spines.right": False,
    "axes.spines.top": False, "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titlesize": 10,
    "legend.fontsize": 9, "legend.frameon": False, "legend.labelcolor": INK, "legend.labelspacing": 0.9,
    "xtick.labelsize": 8, "ytick.labelsize": 8,
}  # fmt: skip
Points = NDArray[np.float64]
Row = Sequence[Trajectory]  # on one function, with the same start and number of steps


class DescentPlot:
    """A row for each function: the trajectories on it, and their gap over the steps."""

    def __init__(self, rows: Sequence[Row], schedule: str) -> None:
        self.lines: list[tuple[Line2D, Points, int]] = []  # with all their points, and the number of steps
        self.heads: list[tuple[Line2D, Points, int]] = []
        under = f", {schedule} schedule" if schedule != "none" else ""
        with style.context(STYLE):
            self.figure = Figure(figsize=(12.5, 4.8 * len(rows)), dpi=120, layout="constrained")
            panels = self.figure.subplots(len(rows), 2, width_ratios=(5, 4), squeeze=False)
            for (left, right), row in zip(panels, rows, strict=True):
                function, steps = row[0].function, row[0].steps
                left.set_title(f"{function.name}   ${function.formula}$")
                right.set_title(f"gap to the minimum, {steps} step{'s' * (steps != 1)}{under}")
                view = draw_function(left, row)
                for trajectory, color in zip(row, COLORS, strict=False):
                    self._add(left, right, trajectory, view, color)
                format_gap_axes(right, row)
        self.show_until(1.0)

    def _add(self, left: Axes, right: Axes, trajectory: Trajectory, view: Points, color: str) -> None:
        points, steps = np.array(trajectory.points), trajectory.steps
        if points.shape[1] == 1:
            points = np.column_stack([points, trajectory.values])
        # What diverges would cover the others with its way back and forth, so it ends where it leaves the plot.
        points = clip_to_view(points, view, 5 if trajectory.diverged_after is None else 0.55)
        gap = np.maximum(trajectory.gap, 1e-13 * (trajectory.gap[0] or 1.0))  # a logarithm needs more than 0
        for axes, shown, width in ((left, points, 1.3), (right, np.column_stack([np.arange(len(gap)), gap]), 1.6)):
            size, width = (0.0, 0.8 * width) if len(shown) > MAX_MARKERS else (3.5, width)
            (line,) = axes.plot([], [], color=color, lw=width, marker="o", ms=size, mec="none", zorder=4)
            self.lines.append((line, shown, steps))
        line.set_label(f"{trajectory.label}\n{trajectory.ending}")
        (head,) = left.plot([], [], color=color, marker="o", ms=8, mec="white", mew=1.2, zorder=6)
        self.heads.append((head, points, steps))

    def show_until(self, fraction: float) -> None:
        """Show the trajectories up to that fraction of their steps, 0 to 1."""
        for line, points, steps in self.lines:
            line.set_data(*points[: round(fraction * steps) + 1].T)
        for head, points, steps in self.heads:
            head.set_data(*points[: round(fraction * steps) + 1][-1:].T)

    def animate(self, file: Path) -> None:
        """Write a GIF of at most 80 steps, evenly spaced; the last frame stays longer."""
        canvas = FigureCanvasAgg(self.figure)
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")  # frames keep the layout of the whole
        self.figure.set_dpi(GIF_DPI)
        count = min(FRAMES, max(steps for _, _, steps in self.lines))
        frames = []
        for frame in range(count + 1):
            self.show_until(frame / count)
            canvas.draw()
            frames.append(Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB"))
        times = [FRAME_MS] * count + [LAST_FRAME_MS]
        frames[0].save(file, save_all=True, append_images=frames[1:], duration=times, loop=0)


def draw_function(axes: Axes, row: Row) -> Points:
    """A curve, or the contours of a surface, with start and minima; the limits of both axes, 2 x 2."""
    function = row[0].function
    spans = [span(axis, row) for axis in range(len(function.view))]
    grid = [torch.linspace(low, high, 400, dtype=torch.float64) for low, high in spans]
    start, minima = row[0].points[:1], list(function.minima)
    if len(spans) == 1:
        values = function.value(grid[0][:, None])
        axes.plot(grid[0], values, color=CONTOUR, lw=2.2, zorder=2, solid_capstyle="round")
        spans.append(with_margin(function.lowest, float(values.max()), 0.06))
        start, minima = [(*start[0], row[0].values[0])], [(*point, function.lowest) for point in minima]
    else:
        gap = (function.value(torch.stack(torch.meshgrid(*grid, indexing="xy"), dim=-1)) - function.lowest).numpy()
        # Contours at equal factors of the gap: near the minima, where trajectories spend their steps, gaps are small.
        levels = np.geomspace(float(np.quantile(gap, 0.004)), float(gap.max()), 16)
        axes.contourf(*grid, np.log(np.maximum(gap, levels[0] / 2)), np.log([levels[0] / 2, *levels]), cmap=PALE)
        axes.contour(*grid, gap, levels, colors=CONTOUR, linewidths=0.6)
        axes.set_ylabel("y")
    axes.add_line(marker("start", start))
    axes.add_line(marker("minimum", minima))
    axes.set(xlim=spans[0], ylim=spans[1], xlabel="x")
    return np.array(spans)


def marker(name: str, points: Sequence[Sequence[float]] = ()) -> Line2D:
    """The ring of a start or the cross of a minimum, at those points."""
    form, width, order = {"start": ("o", 1.2, 5), "minimum": ("+", 1.6, 7)}[name]
    x, y = np.reshape(points, (-1, 2)).T
    return Line2D(x, y, label=name, marker=form, ms=11, mfc="none", mec=INK, mew=width, ls="", zorder=order)


def span(axis: int, row: Row) -> tuple[float, float]:
    """The function's own view, extended to the start and to points up to half of the view beyond."""
    coordinates = np.array([point[axis] for trajectory in row for point in trajectory.points])
    view = row[0].function.view[axis]
    low, high = min(view[0], coordinates[0]), max(view[1], coordinates[0])
    room = (high - low) / 2
    near = coordinates[(coordinates > low - room) & (coordinates < high + room)]
    return with_margin(min(low, near.min()), max(high, near.max()), 0.03)


def with_margin(low: float, high: float, fraction: float) -> tuple[float, float]:
    return low - fraction * (high - low), high + fraction * (high - low)


def clip_to_view(points: ArrayLike, view: ArrayLike, reach: float = 5) -> Points:
    """The points up to the first that lies far outside of the view, that one moved in along its line.

    ``points``: n x 2; ``view``: the limits of both axes, 2 x 2; ``reach``: what counts as far from its centre, in
    widths and heights of the view. Larger numbers could overflow when they are plotted.
    """
    points, view = np.asarray(points, dtype=float), np.asarray(view, dtype=float)
    center, limit = view.mean(axis=1), reach * (view[:, 1] - view[:, 0])
    for step, (here, there) in enumerate(pairwise(points)):
        outside = abs(there - center) > limit
        if outside.any():
            edge = center + np.copysign(limit, there - center)
            fraction = ((edge - here)[outside] / (there - here)[outside]).min()
            return np.vstack([points[: step + 1], here + fraction * (there - here)])
    return points


def format_gap_axes(axes: Axes, row: Row) -> None:
    start, steps = row[0].gap[0] or 1.0, row[0].steps
    gaps = [gap for trajectory in row for gap in trajectory.gap]
    low, high = GAP_RANGE
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(max(min(*gaps, start / 10), start * low) / 2, min(max(*gaps, start), start * high) * 2)
    axes.set(xlim=(-0.02 * steps, 1.02 * steps), xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y", color="#e3e7ea", lw=0.6)
    handles = [*axes.get_lines(), marker("start"), marker("minimum")]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.02))
