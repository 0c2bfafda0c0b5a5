"""The plot of task=bench: how fast each contender trains, and how fast matrix products are by their size."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from smallvision.tasks.bench.contenders import Speed
from smallvision.tasks.bench.products import Products

OURS, OTHERS = "#0b6e99", "#a9b4bc"


def plot(speeds: dict[str, Speed], products: dict[str, Products], title: str, file: Path) -> None:
    """Written to ``file`` as PNG."""
    figure = Figure(figsize=(11, 0.42 * len(speeds) + 2.2), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [f"smallvision, {name.strip()}" if name.startswith(" ") else name for name in speeds]
    medians, lows, highs = np.transpose([(one.images_per_second, one.low, one.high) for one in speeds.values()])
    errors, fastest = (medians - lows, highs - medians), max(highs)
    colors = [OURS if name.startswith("smallvision") else OTHERS for name in names]
    bars.barh(names, medians, xerr=errors, color=colors, error_kw={"elinewidth": 1, "ecolor": "#333333"})
    for row, speed in enumerate(speeds.values()):
        ratio = f"  ours is {speed.ours_is:.2f} times this" if row else ""
        bars.text(speed.high + 0.01 * fastest, row, f" {speed.images_per_second:,.0f}{ratio}", va="center", fontsize=8)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.45 * fastest)
    bars.set_title("images per second: median and range", fontsize=10, loc="left")
    for device, of in products.items():
        for dtype, rates in of.gflops.items():
            lines.plot([*rates], [*rates.values()], marker="o", label=f"{device} {dtype}")
    lines.set(xscale="log", yscale="log")
    lines.set_xlabel("n", fontsize=9)
    lines.set_title("GFLOP/s of n x n by n x n matrix products", fontsize=10, loc="left")
    lines.legend(fontsize=8, frameon=False)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(file)
