"""The pages: of a run, of a comparison and of a sweep, each one self-contained HTML file without requests.

What they say is in ``templates/``; here is what a template cannot compute.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from smallvision.reports import plots
from smallvision.reports.formatting import render
from smallvision.reports.run_view import RunView
from smallvision.reports.statistics import MAX_SEEDS, MIN_SEEDS, seeds_needed

if TYPE_CHECKING:  # a run's page needs neither
    from smallvision.reports.comparison import Comparison
    from smallvision.reports.sweep_view import SweepView

BARS = 25  # of a ranking, those that its scale is made for


def run_page(view: RunView) -> str:
    """``report.html``."""
    return render("run_page.html", view=view, plots=plots, filters=filter_sheet(view.arrays.filters))


def comparison_page(comparisons: list[Comparison], folder: Path) -> str:
    """``comparison.html``. ``folder``: where the page will lie, for the links to the pages of the runs."""
    from smallvision.reports.comparison import MAX_TESTED, SIGNIFICANT

    script = (resources.files("smallvision.reports") / "templates/table.js").read_text(encoding="utf-8")
    return render(
        "comparison_page.html",
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        comparisons=comparisons,
        folder=folder,
        plots=plots,
        max_tested=MAX_TESTED,
        significant=SIGNIFICANT,
        max_seeds=MAX_SEEDS,
        min_seeds=MIN_SEEDS,
        seeds_needed=seeds_needed,
    )


def sweep_page(view: SweepView) -> str:
    """``sweep.html``."""
    from smallvision.reports.importance import Importance, at_edge, importance

    estimated = plots.attempt(importance, view)
    fractions = (estimated.content or Importance()).fractions
    keys = sorted(view.space, key=lambda key: -fractions.get(key, 0.0))
    edges = plots.attempt(at_edge, view).content
    return render(
        "sweep_page.html", view=view, plots=plots, importance=estimated, keys=keys, scale=scale(view), edges=edges
    )


def scale(view: SweepView) -> tuple[float, float]:
    """The ends of the scale on which the ranking shows metrics and their intervals."""
    top = view.ranking[:BARS]
    if not top:
        return 0.0, 1.0
    low, high = plots.limits([trial.value or 0.0 for trial in top], view.maximize)
    ends = [end for trial in top[: len(top) // 2 + 1] for end in trial.sample.interval or ()]
    return min([low, *ends]), max([high, *ends])


def filter_sheet(filters: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
    """Filters (N x C x H x W) side by side, each scaled by itself, 0 as middle grey: RGBA, H x W x 4. None where there
    are none that an image can show.
    """
    if not filters.size or filters.shape[1] not in (1, 3) or not np.isfinite(filters).all():
        return None
    count, _, height, width = filters.shape
    columns = min(16 if max(height, width) <= 12 else 8, count)
    rows = -(-count // columns)
    largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
    levels = np.round(127.5 + 127.5 * filters / np.where(largest, largest, 1)).transpose(0, 2, 3, 1)
    tiles = np.zeros((rows * columns, height + 1, width + 1, 4), np.uint8)  # a transparent pixel between them
    tiles[:count, :height, :width] = 255
    tiles[:count, :height, :width, :3] = levels
    sheet = tiles.reshape(rows, columns, height + 1, width + 1, 4).swapaxes(1, 2)
    return sheet.reshape(rows * (height + 1), columns * (width + 1), 4)[:-1, :-1]
