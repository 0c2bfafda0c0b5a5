"""task=bench as a picture: who trains how fast, and how fast matrix products are by their size."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

OURS, OTHERS = "#0b6e99", "#a9b4bc"


def draw(speed: dict[str, dict[str, Any]], products: dict[str, Any], title: str, file: Path) -> None:
    """``speed`` and ``products`` as in results.json; written to ``file`` as PNG."""
    figure = Figure(figsize=(11, 0.42 * len(speed) + 2.2), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))

    names, rows = list(speed), list(speed.values())
    medians = [row["images_per_second"] for row in rows]
    spread = [
        [median - row["low"] for median, row in zip(medians, rows, strict=True)],
        [row["high"] - median for median, row in zip(medians, rows, strict=True)],
    ]
    colours = [OURS if name == names[0] or name.startswith(" ") else OTHERS for name in names]
    shown = [f"smallvision, {name.strip()}" if name.startswith(" ") else name for name in names]
    bars.barh(shown, medians, xerr=spread, color=colours, error_kw={"elinewidth": 1, "ecolor": "#333333"})
    for place, (median, row) in enumerate(zip(medians, rows, strict=True)):
        times = "" if place == 0 else f"  ours is {row['ours_is']:.2f} times this"
        bars.text(row["high"] + 0.01 * max(medians), place, f" {median:,.0f}{times}", va="center", fontsize=8)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.45 * max(row["high"] for row in rows))
    bars.set_title("images per second: median and range", fontsize=10, loc="left")

    for name, table in products.items():
        if isinstance(table, dict):
            lines.plot([int(size) for size in table], list(table.values()), marker="o", label=name)
    lines.set_xscale("log")
    lines.set_yscale("log")
    lines.set_xlabel("n", fontsize=9)
    lines.set_title("GFLOP/s of n x n by n x n matrix products", fontsize=10, loc="left")
    lines.legend(fontsize=8, frameon=False)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(file)
