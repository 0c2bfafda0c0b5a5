"""Matplotlib plots as SVG within a page, and axes that several plots share.

A plot is drawn in the light colours of ``templates/page.css``. The style sheet replaces each of them by its variable,
so that the same SVG is shown in light and in dark.
"""

import io
import math
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

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
STYLE: Any = {
    "svg.fonttype": "none",
    "path.simplify": False,
    "text.parse_math": False,  # names of files and values are no formulas
    "text.color": COLORS["ink"],
    "font.size": 10,
    "axes.edgecolor": COLORS["line"],
    "axes.labelcolor": COLORS["quiet"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.formatter.useoffset": False,
    "grid.color": COLORS["line"],
    "grid.linewidth": 0.6,
    "lines.markeredgewidth": 0,
    "xtick.labelcolor": COLORS["quiet"],
    "ytick.labelcolor": COLORS["quiet"],
    "xtick.color": COLORS["line"],
    "ytick.color": COLORS["line"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}
SETTINGS_LOCK = threading.Lock()  # matplotlib's settings belong to the process


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
    no_metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with SETTINGS_LOCK, warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # of letters that matplotlib's own font lacks: the page has another
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})  # ids that no other plot of the page has
        figure, text = Figure(figsize=(width, 3.3)), io.StringIO()
        plot = Plot(figure.subplots())
        yield plot
        figure.savefig(text, format="svg", transparent=True, metadata=no_metadata)
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


def epoch_axis(axes: Axes, last: int) -> None:
    """From the first epoch to the last."""
    if last < 8:
        axes.set_xlim(0.5, max(last, 1) + 0.5)
        axes.set_xticks(range(1, max(last, 1) + 1))
        axes.set_xlabel("epoch")
    else:
        axes.set_xlim(1 - last / 40, last + last / 40)
        integer_axis(axes, "epoch")


def number_axis(axes: Axes, numbers: list[float], log: bool) -> None:
    """The values of a searched key; where they are few, each has a tick."""
    distinct = sorted(set(numbers))
    if log:
        axes.set_xscale("log")
        decades = math.log10(distinct[-1] / distinct[0])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if len(distinct) <= 6:
        axes.set_xticks(distinct)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))


def dots(axes: Axes, xs: Sequence[float], ys: Sequence[float], maximize: bool, role: str, size: float = 5) -> None:
    """Dots; those outside of the metric's axis become arrows at its worse edge. Set the axis first."""
    low, high = axes.get_ylim()
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    inside = (low <= y) & (y <= high)
    alpha = 1.0 if role == "best" else 0.8
    # Lines of no length with round ends, all in one path: as markers, a thousand dots would take 100 KB a plot.
    axes.plot(
        _twice(x[inside]), _twice(y[inside]), color=COLORS[role], linewidth=size, solid_capstyle="round",
        alpha=alpha, zorder=3,
    )  # fmt: skip
    outside = x[~inside & np.isfinite(y)]
    edge = np.full(len(outside), low if maximize else high)
    axes.plot(outside, edge, "v" if maximize else "^", color=COLORS[role], markersize=size, clip_on=False, zorder=3)


def _twice(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Each value twice, then a gap."""
    return np.column_stack([values, values, np.full(len(values), np.nan)]).ravel()
