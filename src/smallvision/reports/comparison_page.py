"""Several runs on one page, ``comparison.html``."""

import os
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from smallvision.core.run_dir import write_text
from smallvision.reports import plots
from smallvision.reports.comparison import MAX_TESTED, SIGNIFICANT, Comparison
from smallvision.reports.pages import attempt, render
from smallvision.reports.plots import COLORS, SERIES, new_plot

MAX_ROWS = 100  # configurations in a table; comparison.csv has them all


def write_page(comparisons: list[Comparison], path: Path) -> None:
    write_text(path, page(comparisons, path.parent))


def page(comparisons: list[Comparison], folder: Path) -> str:
    """``folder``: where the page will lie, for the links to the pages of the runs."""
    return render(
        "comparison_page.html",
        comparisons=comparisons,
        curves=[attempt(curves, one, f"curves{number}") for number, one in enumerate(comparisons)],
        links={run.directory: link(run.directory, folder) for one in comparisons for run in one.runs},
        stand_ins=sorted({one.data.stand_in_for for one in comparisons if one.data.stand_in_for}),
        series=SERIES,
        max_rows=MAX_ROWS,
        max_tested=MAX_TESTED,
        significant=SIGNIFICANT,
    )


def link(run: Path, folder: Path) -> str | None:
    """The run's own page as seen from this one."""
    if not (run / "report.html").is_file():
        return None
    try:
        return "./" + quote(os.path.relpath(run / "report.html", folder).replace(os.sep, "/"), errors="replace")
    except ValueError:  # another drive
        return None


def curves(comparison: Comparison, name: str) -> Markup | None:
    """val/acc by epoch, the mean over seeds, of each configuration."""
    lines = [configuration.curve for configuration in comparison.configurations]
    if not any(lines):
        return None
    with new_plot(name, "val/acc by epoch of each configuration", width=7.2) as plot:
        plot.axes.set_ylim(*plots.limits([value for line in lines for value in line.values()], maximize=True))
        for place, line in reversed(list(enumerate(lines))):
            first = place < len(SERIES)
            plot.axes.plot(
                list(line), list(line.values()), color=COLORS[SERIES[place] if first else "pruned"],
                linewidth=1.6 if first else 0.8, alpha=1 if first else 0.5,
                marker="o" if len(line) <= 30 else "", markersize=3 if len(line) > 1 else 6,
            )  # fmt: skip
        plots.epoch_axis(plot.axes, max(max(line, default=1) for line in lines))
    return plot.svg
