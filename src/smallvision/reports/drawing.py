"""Matplotlib's pictures as SVG within a page: its colours and letters are the page's own."""

import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# What is drawn in these colours is shown in the page's variable of that name, in light and in dark.
COLOURS = {
    "ink": "#000001",
    "quiet": "#000002",
    "line": "#000003",
    "trial": "#000004",
    "best": "#000005",
    "pruned": "#000006",
    "failed": "#000007",
    "paper": "#000008",
    "series-1": "#000011",
    "series-2": "#000012",
    "series-3": "#000013",
    "series-4": "#000014",
    "series-5": "#000015",
    "series-6": "#000016",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "smallvision",
    "text.parse_math": False,  # words of files and command lines are no formulas
    "text.color": COLOURS["ink"],
    "font.size": 10,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.formatter.useoffset": False,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.labelcolor": COLOURS["quiet"],
    "ytick.labelcolor": COLOURS["quiet"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}
ALONE = threading.Lock()  # matplotlib's settings are the process's


def picture(name: str, says: str, draw: Callable[[Axes], None], width: float = 5.1) -> Markup:
    """What ``draw`` draws, as an ``<svg>``; the same bytes for the same figures.

    ``name``: unique within the page; ``says``: what to read instead where it cannot be seen; ``width``: in
    inches of 72 of the page's pixels.
    """
    settings: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with ALONE, warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # of letters that its own font lacks: the page's font is used
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure, text = Figure(figsize=(width, 3.3)), io.StringIO()
        draw(figure.subplots())
        figure.savefig(text, format="svg", transparent=True, metadata=settings)
    return Markup(_within_a_page(text.getvalue(), name, says))


def limits(values: Iterable[float], maximize: bool) -> tuple[float, float]:
    """From where to where a figure's axis goes.

    On the worse side it ends four times as far from the median as the best is, lest one hopeless trial
    press all others into a line.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    low, high, middle = float(finite.min()), float(finite.max()), float(np.median(finite))
    if maximize and high > middle:
        low = max(low, middle - 4 * (high - middle))
    if not maximize and low < middle:
        high = min(high, middle + 4 * (middle - low))
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def figures_up(axes: Axes, span: tuple[float, float]) -> None:
    axes.set_ylim(*span)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def whole_numbers_along(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def epochs_along(axes: Axes, last: int) -> None:
    """An axis from the first epoch to the last."""
    if last < 8:
        axes.set_xlim(0.5, max(last, 1) + 0.5)
        axes.set_xticks(range(1, max(last, 1) + 1))
    else:
        axes.set_xlim(1 - last / 40, last + last / 40)
        whole_numbers_along(axes)
    axes.set_xlabel("epoch")


def numbers_along(axes: Axes, numbers: list[float], log: bool) -> None:
    """An axis of a searched key; where there are few values, each is marked."""
    few = sorted(set(numbers))
    if log:
        axes.set_xscale("log")
        decades = math.log10(few[-1] / few[0])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if len(few) <= 6:
        axes.set_xticks(few)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.4g}"))


def dots(axes: Axes, places: list[float], values: list[float], maximize: bool, colour: str, size: float = 5) -> None:
    """Dots; those beyond the figure's axis lie on its worse edge as arrows. Set the axis first."""
    low, high = axes.get_ylim()
    edge = low if maximize else high
    points = list(zip(places, values, strict=True))
    within = [(place, value) for place, value in points if low <= value <= high]
    beyond = [place for place, value in points if value < low or value > high]
    settings: dict[str, Any] = {"color": COLOURS[colour], "linestyle": "", "markeredgewidth": 0, "zorder": 3}
    axes.plot(*_columns(within), marker="o", markersize=size, alpha=1.0 if colour == "best" else 0.8, **settings)
    arrow = "v" if maximize else "^"
    axes.plot(beyond, [edge] * len(beyond), marker=arrow, markersize=size, clip_on=False, **settings)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [place for place, _ in points], [value for _, value in points]


def _within_a_page(svg: str, name: str, says: str) -> str:
    """Without what only a file of its own needs, and with what ties it to the page.

    Only within tags: between them stand words of files and command lines.
    """
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', svg)
    inside = re.sub(r"<style.*?</style>", "", svg[svg.index(">") + 1 :], flags=re.DOTALL)
    known = dict.fromkeys(re.findall(r'<(?!g)[^>]* id="([^"]*)"', inside))
    ids = {one: f"{name}-{place}" for place, one in enumerate(known)}
    inside = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], ids), inside)
    inside = re.sub(r">\s+<", "><", inside)
    inside = re.sub(r"<use [^>]*?/>(?:<use [^>]*?/>)+", _with_one_style, inside)
    head = f'<svg viewBox="{box[1] if box else "0 0 403 238"}" role="img" aria-label="{escape(says)}">'
    return head + inside


def _tag(tag: str, ids: dict[str, str]) -> str:
    tag = re.sub(r"\s+", " ", tag).replace("xlink:href", "href").replace(' "', '"')
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r" font-family: [^;]*;", "", tag)
    tag = re.sub(r'(id="|#)([pm]\w+|C\w+)(?=["\)])', lambda one: one[1] + ids.get(one[2], one[2]), tag)
    for role, colour in COLOURS.items():
        tag = tag.replace(colour, f"var(--{role})")
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)


def _with_one_style(marks: "re.Match[str]") -> str:
    """A thousand marks say their colour once."""
    styles = set(re.findall(r' style="([^"]*)"', marks[0]))
    if len(styles) != 1:
        return marks[0]
    style = styles.pop()
    return f'<g style="{style}">{marks[0].replace(f" style={chr(34)}{style}{chr(34)}", "")}</g>'
