"""Finds runs and compares them in a table."""

import csv
import glob
import io
import json
import math
from pathlib import Path
from typing import Any

from smallvision.errors import Refusal, printable

COLUMNS = (
    "run", "status", "data", "stand_in_for", "model", "optimizer", "seed", "epochs", "val/acc", "test/acc",
    "images/s",
)  # fmt: skip


def find(runs: str) -> list[Path]:
    """Run directories of a directory, a folder at any depth above them, or a glob; Refusal where none."""
    places = [Path(place) for place in sorted(glob.glob(runs, recursive=True))]
    found = {
        file.parent
        for place in places
        for file in (place, *place.rglob("results.json"))
        if file.name == "results.json" and file.is_file()
    }
    if not found:
        raise Refusal(f"runs={runs}: no runs there (no results.json); use runs=DIR or a glob in quotes")
    return sorted(found)


def read(run: Path) -> dict[str, Any]:
    """One row of the table; Refusal, naming the file, where results.json is not what a run writes."""
    file = run / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        data, metrics = results["data"], results["metrics"]
        for figure in (metrics["val/acc"], metrics["test/acc"], results["images_per_second"]):
            if figure is not None:
                if not isinstance(figure, (int, float)):
                    raise TypeError(f"{figure!r} is no number")
                float(figure)  # JSON's whole numbers have no end
        return {
            "run": str(run),
            "status": results["status"] + ("*" if data["stand_in_for"] else ""),
            "data": data["name"],
            "stand_in_for": data["stand_in_for"],
            "model": results["model"]["name"],
            "optimizer": results["optimizer"],
            "seed": results["seed"],
            "epochs": results["epochs"],
            "val/acc": metrics["val/acc"],
            "test/acc": metrics["test/acc"],
            "images/s": results["images_per_second"],
            "task": results["task"],
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Refusal(f"{file}: not a run's results ({type(error).__name__}: {error})") from None


def table(runs: list[Path]) -> list[dict[str, Any]]:
    """Rows of trained runs, the best by validation first, those without a figure last."""
    rows = [row for row in map(read, runs) if row["task"] == "fit"]

    def rank(row: dict[str, Any]) -> tuple[bool, float, str]:
        known = row["val/acc"] is not None and not math.isnan(row["val/acc"])
        return not known, -row["val/acc"] if known else 0.0, row["run"]

    return sorted(rows, key=rank)


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: printable(str(row[name])) if row[name] is not None else None for name in COLUMNS}
        for row in rows
    )
    return text.getvalue()
