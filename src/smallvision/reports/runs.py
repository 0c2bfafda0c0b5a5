"""Finds runs and compares them in a table."""

import csv
import glob
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smallvision.core.errors import UserError, printable
from smallvision.reports.comparison import flat
from smallvision.reports.run_view import RunView

COLUMNS = (
    "run", "status", "data", "stand_in_for", "model", "optimizer", "seed", "epochs", "val/acc", "test/acc",
    "images/s",
)  # fmt: skip


def find(runs: str) -> list[Path]:
    """Run directories of a directory, a folder at any depth above them, or a glob; UserError where none."""
    places = [Path(place) for place in sorted(glob.glob(runs, recursive=True))]
    found = {
        file.parent
        for place in places
        for file in (place, *place.rglob("results.json"))
        if file.name == "results.json" and file.is_file()
    }
    if not found:
        raise UserError(f"runs={runs}: no runs there (no results.json); use runs=DIR or a glob in quotes")
    return sorted(found)


def row(view: RunView) -> dict[str, Any]:
    """A run's row in the table."""
    return {
        "run": str(view.directory),
        "status": view.status + ("*" if view.data["stand_in_for"] else ""),
        "data": view.data["name"],
        "stand_in_for": view.data["stand_in_for"],
        "model": view.model,
        "optimizer": view.optimizer,
        "seed": view.seed,
        "epochs": view.epochs,
        "val/acc": view.metrics["val/acc"],
        "test/acc": view.metrics["test/acc"],
        "images/s": view.images_per_second,
        **{key: value for key, value in flat(view.config).items() if key not in COLUMNS},
    }


def table(views: list[RunView]) -> list[dict[str, Any]]:
    """Rows of runs, the best by validation first, those without a figure last."""
    rows = [row(view) for view in views]

    def rank(row: dict[str, Any]) -> tuple[bool, float, str]:
        known = row["val/acc"] is not None and not math.isnan(row["val/acc"])
        return not known, -row["val/acc"] if known else 0.0, row["run"]

    return sorted(rows, key=rank)


def as_csv(rows: list[dict[str, Any]], differing: Iterable[str] = ()) -> str:
    """The rows, with a column for each key in which the runs' configs differ."""
    text = io.StringIO()
    columns = [*COLUMNS, *(key for key in differing if key not in COLUMNS)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerow({name: printable(name) for name in columns})
    writer.writerows(
        {name: None if row.get(name) is None else printable(str(row[name])) for name in columns} for row in rows
    )
    return text.getvalue()
