"""Several runs on one page, ``comparison.html``."""

import os
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.axes import Axes

from smallvision.core.run_dir import write_text
from smallvision.reports import drawing
from smallvision.reports.comparison import MOST_TESTED, NOISE, Comparison, Configuration
from smallvision.reports.drawing import COLOURS
from smallvision.reports.pages import NoPicture, drawn, render

COLOURED = 6  # configurations that have a colour of their own; others are grey
SHOWN = 100  # configurations in a table; comparison.csv has them all


def write_page(comparisons: list[Comparison], path: Path) -> None:
    write_text(path, page(comparisons, path.parent))


def page(comparisons: list[Comparison], folder: Path) -> str:
    """``folder``: where the page will lie, for the links to the runs' own pages."""
    return render(
        "comparison_page.html",
        parts=[_part(number, one, folder) for number, one in enumerate(comparisons)],
        runs=sum(len(one.runs) for part in comparisons for one in part.configurations),
        stand_ins=sorted({str(part.data["stand_in_for"]) for part in comparisons if part.data["stand_in_for"]}),
        noise=NOISE,
        tested=MOST_TESTED,
    )


def _part(number: int, one: Comparison, folder: Path) -> dict[str, Any]:
    """What the page says of the runs on one set of images."""
    rows = [_row(place, one, configuration, folder) for place, configuration in enumerate(one.configurations)]
    places = {id(row["configuration"]): row for row in rows}
    return {
        "data": one.data,
        "differing": one.differing,
        "rows": rows[:SHOWN],
        "left_out": max(0, len(rows) - SHOWN),
        "repeated": any(len(row["configuration"].runs) > 1 for row in rows),
        "curves": drawn(partial(curves, one, f"curves{number}")),
        "coloured": rows[:COLOURED],
        "others": max(0, len(rows) - COLOURED),
        "against": [(places[id(other.other)], other) for other in one.against],
    }


def _row(place: int, one: Comparison, configuration: Configuration, folder: Path) -> dict[str, Any]:
    interval = configuration.interval("val/acc")
    test = configuration.interval("test/acc")
    return {
        "place": place + 1,
        "role": f"series-{place + 1}" if place < COLOURED else "pruned",
        "configuration": configuration,
        "val": configuration.mean("val/acc"),
        "val_half": (interval[1] - interval[0]) / 2 if interval else None,
        "test": configuration.mean("test/acc"),
        "test_half": (test[1] - test[0]) / 2 if test else None,
        "deviation": configuration.deviation("test/acc"),
        "n": len(configuration.runs),
        "values": [one.shown(configuration, key) for key in one.differing],
        "seconds": _mean([run.seconds["fit"] for run in configuration.runs]),
        "epochs": max(run.epochs for run in configuration.runs),
        "runs": [(run, _link(run.directory, folder)) for run in configuration.runs],
        "odd": sorted({run.status for run in configuration.runs} - {"completed"}),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _link(run: Path, folder: Path) -> str | None:
    """The run's own page as seen from this one."""
    if not (run / "report.html").is_file():
        return None
    try:
        return "./" + quote(os.path.relpath(run / "report.html", folder).replace(os.sep, "/"), errors="replace")
    except ValueError:  # another drive
        return None


def curves(one: Comparison, name: str) -> Markup:
    """val/acc by epoch, the mean over seeds, of each configuration."""
    lines = [configuration.curve for configuration in one.configurations]
    if not any(lines):
        raise NoPicture("There are curves once an epoch was validated.")

    def draw(axes: Axes) -> None:
        values = [value for line in lines for value in line.values()]
        axes.set_ylim(*drawing.limits(values, maximize=True))
        for place, line in reversed(list(enumerate(lines))):
            own = place < COLOURED
            axes.plot(
                list(line), list(line.values()),
                color=COLOURS[f"series-{place + 1}" if own else "pruned"],
                linewidth=1.6 if own else 0.8, alpha=1 if own else 0.5,
                marker="o" if len(line) <= 30 else "", markersize=3 if len(line) > 1 else 6,
                markeredgewidth=0,
            )  # fmt: skip
        drawing.epochs_along(axes, max(max(line, default=1) for line in lines))

    return drawing.picture(name, "val/acc by epoch of each configuration", draw, width=7.2)
