"""task=descent as a picture, and as one that moves: the ways down, and the heights step by step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from smallvision.tasks.descent.functions import Function
from smallvision.tasks.descent.landscape import INK, MINIMUM, QUIET, START, landscape, until_far
from smallvision.tasks.descent.walk import Walk

# Okabe and Ito's, which the colour-blind can tell apart; but for the yellow, which paper swallows.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHOWN, DEEPEST = 1e-9, 1e-13  # of the start's height: the axis ends there at the latest; lower is drawn there
HIGHEST = 1e3  # the same upwards
MANY = 100  # steps, whose dots would run into one another
FRAMES, PER_SECOND, REST = 80, 10, 15  # of an animation; the last frame stays that many
Points = list[tuple[float, float]]


@dataclass
class Track:
    """One walk's lines, which grow step by step, and the dot where it is."""

    steps: int
    lines: list[tuple[Line2D, Points]]
    dot: Line2D
    way: Points

    def upto(self, share: float) -> None:
        step = round(share * self.steps)
        for line, points in self.lines:
            line.set_data(*zip(*points[: step + 1], strict=True))
        x, y = self.way[min(step, len(self.way) - 1)]
        self.dot.set_data([x], [y])


class Picture:
    """A row for each function: its landscape with every walk, and every walk's height over the steps.

    ``rows``: a function, the number of steps, and the walks down it, which have one start.
    """

    def __init__(self, rows: Sequence[tuple[Function, int, Sequence[Walk]]], scheduler: str) -> None:
        self.figure = Figure(figsize=(12.5, 4.8 * len(rows)), dpi=120, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.most = max(steps for _, steps, _ in rows)
        self.tracks: list[Track] = []
        grid = self.figure.add_gridspec(len(rows), 2, width_ratios=(5, 4))
        for place, (function, steps, walks) in enumerate(rows):
            heights = self.figure.add_subplot(grid[place, 1])
            under = f", {scheduler} schedule" if scheduler != "none" else ""
            title(heights, f"height above the minimum, {steps} step{'s' * (steps != 1)}{under}")
            self._row(grid[place, 0], heights, function, steps, walks)
        self.upto(1.0)

    def _row(self, left: SubplotSpec, heights: Axes, function: Function, steps: int, walks: Sequence[Walk]) -> None:
        flat = len(function.start) == 1
        split = left.subgridspec(2, 1, height_ratios=(3, 2)) if flat else None
        ground = self.figure.add_subplot(split[0] if split else left)
        frame = landscape(ground, function, walks)
        title(ground, f"{function.name}   ${function.formula}$")
        under = self.figure.add_subplot(split[1], sharex=ground) if split else None
        if under is not None:
            ground.set_xlabel("")
            ground.tick_params(labelbottom=False)
            axis_of_steps(under, steps)
        for walk, colour in zip(walks, cycle(COLOURS), strict=False):
            ways = [(p[0], v if flat else p[1]) for p, v in zip(walk.places, walk.values, strict=True)]
            # One that never comes back is out of sight once it has left, or it would cover the others.
            reach = 5 if walk.diverged is None else 0.55
            ways = until_far(ways, frame, reach)
            bounds = (frame[0], (0.0, float(steps)))
            along = until_far([(p[0], float(step)) for step, p in enumerate(walk.places)], bounds, reach)
            lines = [
                line(ground, ways, colour, 1.3),
                line(heights, list(enumerate(drawn(walk))), colour, 1.6),
            ]
            lines[1][0].set_label(words(walk))
            lines += [line(under, along, colour, 1.3)] if under is not None else []
            (dot,) = ground.plot([], [], color=colour, marker="o", ms=8, mec="white", mew=1.2, zorder=6)
            self.tracks.append(Track(steps, lines, dot, ways))
        axis_of_heights(heights, walks, steps)

    def upto(self, share: float) -> None:
        """Show the walks as they stand after that share of their steps, 0 to 1."""
        for track in self.tracks:
            track.upto(share)

    def save(self, file: Path) -> None:
        self.figure.savefig(file)

    def animate(self, file: Path) -> None:
        """As GIF: at most 80 moves, evenly over the steps, then a rest."""
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")  # what was laid out stays where it is
        count = min(self.most, FRAMES)
        shares = [frame / count for frame in range(count + 1)]
        writer = PillowWriter(fps=PER_SECOND)
        with writer.saving(self.figure, str(file), dpi=80):
            for share in [*shares, *[1.0] * REST]:
                self.upto(share)
                writer.grab_frame()


def line(axes: Axes, points: Points, colour: str, width: float) -> tuple[Line2D, Points]:
    size, width = (0.0, 0.8 * width) if len(points) > MANY else (3.5, width)
    (drawn_line,) = axes.plot([], [], color=colour, lw=width, marker="o", ms=size, mec="none", zorder=4)
    return drawn_line, points


def drawn(walk: Walk) -> list[float]:
    """Heights that a logarithm can be taken of."""
    least = DEEPEST * (walk.heights[0] or 1.0)
    return [max(height, least) for height in walk.heights]


def words(walk: Walk) -> str:
    if walk.diverged is not None:
        return f"{walk.label}\ndiverged after step {walk.diverged}"
    if walk.settled is not None:
        return f"{walk.label}\nthere after step {walk.settled}"
    if math.isinf(walk.left[-1]):
        return f"{walk.label}\nleft the minimum"
    return f"{walk.label}\n{100 * walk.left[-1]:.2g} % of the way left"


def axis_of_heights(axes: Axes, walks: Sequence[Walk], steps: int) -> None:
    start = walks[0].heights[0] or 1.0
    heights = [height for walk in walks for height in walk.heights]
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(max(min(*heights, start / 10), start * SHOWN) / 2, min(max(*heights, start), start * HIGHEST) * 2)
    axes.set_xlim(-0.02 * steps, 1.02 * steps)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("step", fontsize=9, color=QUIET)
    marks = [Line2D([], [], label="start", **START), Line2D([], [], label="minimum", **MINIMUM)]
    axes.legend(
        handles=[*axes.get_lines(), *marks], loc="upper left", bbox_to_anchor=(1.02, 1.02), fontsize=9,
        frameon=False, labelspacing=0.9, labelcolor=INK,
    )  # fmt: skip
    axes.grid(axis="y", color="#e3e7ea", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def axis_of_steps(axes: Axes, steps: int) -> None:
    """Downwards, beneath the curve."""
    axes.set_ylim(1.03 * steps, -0.03 * steps)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.set_ylabel("step", fontsize=9, color=QUIET)
    axes.set_xlabel("x", fontsize=9, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=10, loc="left", color=INK)
