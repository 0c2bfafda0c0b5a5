"""What a run left in its directory, read with care: the files may be missing, damaged or somebody else's."""

import csv
import glob
import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from smallvision.config import untrusted
from smallvision.core.errors import UserError
from smallvision.core.results import Results
from smallvision.reports.evaluation import Accuracy, Array, Evaluation

MAX_BYTES = 2**30  # of report.npz, unpacked
MAX_ROWS = 100_000  # of metrics.csv
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
    RecursionError, csv.Error, yaml.YAMLError, UserError,
)  # fmt: skip
# The arrays of report.npz: kind of dtype and number of dimensions. See tasks/report_data.py, which writes them.
ARRAYS = {
    "classes": ("U", 1), "test_probabilities": ("f", 2), "test_labels": ("i", 1), "mistakes": ("u", 4),
    "mistake_index": ("i", 1), "samples": ("u", 4), "sample_labels": ("i", 1), "filters": ("f", 4),
}  # fmt: skip
PAIRS = (("test_probabilities", "test_labels"), ("mistakes", "mistake_index"), ("samples", "sample_labels"))


@dataclass(frozen=True)
class RunView:
    """A run directory. Of ``config`` (config.yaml), ``overrides`` (overrides.yaml), ``environment``
    (environment.json), ``rows`` (metrics.csv) and ``arrays`` (report.npz), what is missing or damaged is empty.
    """

    directory: Path
    results: Results
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, float | None]] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path, arrays: bool = True) -> "RunView":
        """What lies in ``directory``; without ``arrays``, report.npz is not read.

        Raises UserError where there is no results.json that a run could have written.
        """
        return cls(
            directory,
            Results.read(directory / "results.json"),
            _mapping(_yaml(directory / "config.yaml")),
            _strings(_yaml(directory / "overrides.yaml")),
            _mapping(_json(directory / "environment.json")),
            _rows(directory / "metrics.csv"),
            read_arrays(directory) if arrays else {},
        )

    @cached_property
    def test_accuracy(self) -> Accuracy | None:
        return Accuracy.of(self.results.metrics["test/acc"], self.results.tested)

    @cached_property
    def val_accuracy(self) -> Accuracy | None:
        """Of the best epoch."""
        return Accuracy.of(self.results.metrics["val/acc"], self.results.data.val)

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """Of the images that were tested."""
        if not len(self.arrays.get("test_labels", ())):
            return None
        return Evaluation(self.arrays["test_probabilities"], self.arrays["test_labels"])

    @cached_property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.arrays.get("classes", ())]

    def column(self, name: str) -> list[tuple[int, float]]:
        """Epoch and value of one column of metrics.csv, without the values that are missing, NaN or infinite."""
        pairs = [(row["epoch"] or math.nan, row.get(name)) for row in self.rows]
        return [
            (int(epoch), value)
            for epoch, value in pairs
            if value is not None and math.isfinite(epoch) and math.isfinite(value)
        ]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config by full keys, as ``optimizer.lr``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def find_runs(pattern: str) -> list[Path]:
    """The run directories at that path, in any depth below it, or below what it matches as a glob.

    Raises UserError where there are none.
    """
    found = {
        file.parent
        for start in map(Path, glob.glob(pattern, recursive=True))
        for file in (start, *start.rglob("results.json"))
        if file.name == "results.json" and file.is_file()
    }
    if not found:
        raise UserError(f"runs={pattern}: no runs there (no results.json); use runs=DIR or a glob in quotes")
    return sorted(found)


def is_sweep_dir(path: Path) -> bool:
    """Whether a sweep wrote that directory."""
    return (path / "sweep.yaml").is_file()


def task_of(directory: Path) -> str | None:
    """What the run did (fit, test, predict ...), None where its results.json does not say."""
    task = _mapping(_json(directory / "results.json")).get("task")
    return task if isinstance(task, str) else None


def read_arrays(directory: Path) -> dict[str, Array]:
    """The arrays of report.npz, or none where they are not those that a run writes."""
    file = directory / "report.npz"
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                return {}
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except UNREADABLE:
        return {}
    return arrays if _consistent(arrays) else {}


def _consistent(arrays: dict[str, Array]) -> bool:
    """Whether types, sizes and indices of the arrays fit each other."""
    if any(ARRAYS.get(name) != (array.dtype.kind, array.ndim) for name, array in arrays.items()):
        return False
    if any((one in arrays) != (other in arrays) for one, other in PAIRS):
        return False
    if any(len(arrays[one]) != len(arrays[other]) for one, other in PAIRS if one in arrays):
        return False
    classes, probabilities = len(arrays.get("classes", ())), arrays.get("test_probabilities", np.zeros((0, 0)))
    indices = (("test_labels", classes), ("sample_labels", classes), ("mistake_index", len(probabilities)))
    if any(not _within(arrays[name], end) for name, end in indices if name in arrays):
        return False
    fits = "test_probabilities" not in arrays or probabilities.shape[1] == classes
    return classes > 0 and fits and bool(np.isfinite(probabilities).all())


def _within(index: Array, end: int) -> bool:
    return not index.size or bool(0 <= index.min() <= index.max() < end)


def _rows(file: Path) -> list[dict[str, float | None]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row, _ in zip(csv.DictReader(lines), range(MAX_ROWS), strict=False)]
        return [
            {str(name): float(value) if value else None for name, value in row.items()}
            for row in rows
            if row.get("epoch")
        ]
    except UNREADABLE:
        return []


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except UNREADABLE:
        return None


def _yaml(file: Path) -> Any:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        untrusted.check_plain_data(tree, str(file), untrusted.MAX_ENTRIES)
    except UNREADABLE:
        return None
    return tree


def _mapping(tree: Any) -> dict[str, Any]:
    return {str(name): value for name, value in tree.items()} if isinstance(tree, dict) else {}


def _strings(tree: Any) -> list[str]:
    return [value for value in tree if isinstance(value, str)] if isinstance(tree, list) else []
