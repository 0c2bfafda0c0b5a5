"""What one run left behind, as its page needs it."""

import csv
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from smallvision.core.errors import UserError

MOST_BYTES = 2**30  # of report.npz, unpacked
MOST_ROWS = 100_000  # of metrics.csv
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile,
    zlib.error, RecursionError,
)  # fmt: skip
METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc")


@dataclass(frozen=True)
class RunView:
    """The files of a run directory, held against the form that a run gives them.

    ``data``: name, source, fingerprint, stand_in_for, remark and the sizes train, val, test; ``metrics``: of
    the chosen epoch, None where there is none; ``rows``: of metrics.csv; ``seconds``: total, fit, test;
    ``epoch_seconds``: of each epoch train, val and rest; ``arrays``: of report.npz, see tasks/drawn.py.
    """

    directory: Path
    status: str
    reason: str | None
    task: str
    seed: int
    device: str
    precision: str
    data: dict[str, Any]
    model: str
    parameters: int
    optimizer: str
    epochs: int
    steps: int
    best_epoch: int | None
    metrics: dict[str, float | None]
    tested: int
    checkpoint: str | None
    seconds: dict[str, float | None]
    epoch_seconds: list[dict[str, float]]
    images_per_second: float | None
    unsaved: list[str]
    config: dict[str, Any]
    typed: list[str]
    environment: dict[str, Any]
    rows: list[dict[str, float | None]]
    arrays: dict[str, np.ndarray[Any, Any]]
    classes: list[str]

    @property
    def probabilities(self) -> np.ndarray[Any, Any] | None:
        """Of the tested images, N x classes."""
        return self.arrays.get("test_probabilities")

    @property
    def labels(self) -> np.ndarray[Any, Any] | None:
        """Of the tested images, N."""
        return self.arrays.get("test_labels")


def predictions(directory: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Predicted and true classes of the images that a run was tested on, N each, if it kept them."""
    arrays = _arrays(directory / "report.npz")
    if "test_probabilities" not in arrays:
        return None
    return arrays["test_probabilities"].argmax(1), arrays["test_labels"]


def task_of(directory: Path) -> str | None:
    """What the run did (fit, test, predict and so on), None where its results.json does not say."""
    try:
        results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    except UNREADABLE:
        return None
    task = results.get("task") if isinstance(results, dict) else None
    return task if isinstance(task, str) else None


def read(directory: Path, arrays: bool = True) -> RunView:
    """What lies in ``directory``; without ``arrays``, report.npz is left alone.

    Raises UserError where there is no results.json that a run could have written. Of the other files, those
    that are missing or damaged are left out.
    """
    file = directory / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        data, model, seconds = results["data"], results["model"], results["seconds"]
        tested = results.get("tested", data["test"] if results["metrics"]["test/acc"] is not None else 0)
        found = _arrays(directory / "report.npz") if arrays else {}
        return RunView(
            directory=directory,
            status=_word(results["status"]),
            reason=None if results.get("reason") is None else _word(results["reason"]),
            task=_word(results["task"]),
            seed=_count(results["seed"]),
            device=_word(results["device"]),
            precision=_word(results["precision"]),
            data={
                **{name: _word(data[name]) for name in ("name", "source", "fingerprint")},
                **{name: data[name] and _word(data[name]) for name in ("stand_in_for", "remark")},
                **{name: _count(data[name]) for name in ("train", "val", "test")},
            },
            model=_word(model["name"]),
            parameters=_count(model["parameters"]),
            optimizer=_word(results["optimizer"]),
            epochs=_count(results["epochs"]),
            steps=_count(results["steps"]),
            best_epoch=None if results.get("best_epoch") is None else _count(results["best_epoch"]),
            metrics={name: _figure(results["metrics"].get(name)) for name in METRICS},
            tested=_count(tested),
            checkpoint=results["best_checkpoint"] and _word(results["best_checkpoint"]),
            seconds={name: _figure(seconds.get(name)) for name in ("total", "fit", "test")},
            epoch_seconds=[
                {part: float(epoch[part]) for part in ("train", "val", "rest")}
                for epoch in seconds.get("epochs", [])[:MOST_ROWS]
            ],
            images_per_second=_figure(results["images_per_second"]),
            unsaved=[_word(one) for one in results.get("unsaved", [])],
            config=_mapping(_yaml(directory / "config.yaml")),
            typed=[one for one in _list(_yaml(directory / "overrides.yaml")) if isinstance(one, str)],
            environment=_environment(directory / "environment.json"),
            rows=_rows(directory / "metrics.csv"),
            arrays=found,
            classes=_classes(found),
        )
    except (*UNREADABLE, OverflowError) as error:
        raise UserError(f"{file}: not a run's results ({type(error).__name__}: {error})") from None


def _arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                return {}
        with np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except UNREADABLE:
        return {}
    return found if _fit_together(found) else {}


def _fit_together(found: dict[str, np.ndarray[Any, Any]]) -> bool:
    """Whether they are the arrays that a run writes."""
    kinds = {
        "test_probabilities": ("f", 2), "test_labels": ("i", 1), "mistake_index": ("i", 1),
        "mistakes": ("u", 4), "samples": ("u", 4), "sample_labels": ("i", 1), "filters": ("f", 4),
        "classes": ("U", 1),
    }  # fmt: skip
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or kinds.get(name) != (array.dtype.kind, array.ndim):
            return False
    if "classes" not in found or not found["classes"].size:
        return False
    classes = len(found["classes"])
    for labels in ("test_labels", "sample_labels"):
        if labels in found and found[labels].size and not 0 <= found[labels].min() <= found[labels].max() < classes:
            return False
    for one, other in (
        ("test_probabilities", "test_labels"),
        ("mistakes", "mistake_index"),
        ("samples", "sample_labels"),
    ):
        if (one in found) != (other in found) or (one in found and len(found[one]) != len(found[other])):
            return False
    if "test_probabilities" not in found:
        return "mistakes" not in found
    probabilities, index = found["test_probabilities"], found.get("mistake_index", np.zeros(0, int))
    if probabilities.shape[1] != classes or not np.isfinite(probabilities).all():
        return False
    return not index.size or 0 <= index.min() <= index.max() < len(probabilities)


def _classes(arrays: dict[str, np.ndarray[Any, Any]]) -> list[str]:
    return [str(name) for name in arrays["classes"]] if "classes" in arrays else []


def _rows(file: Path) -> list[dict[str, float | None]]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row, _ in zip(csv.DictReader(lines), range(MOST_ROWS), strict=False)]
        return [
            {str(name): float(value) if value else None for name, value in row.items()}
            for row in rows
            if row.get("epoch")
        ]
    except (*UNREADABLE, csv.Error):
        return []


def _environment(file: Path) -> dict[str, Any]:
    try:
        return _mapping(json.loads(file.read_text(encoding="utf-8")))
    except UNREADABLE:
        return {}


def _yaml(file: Path) -> Any:
    from smallvision.config.untrusted import MOST_ENTRIES, check_plain_data

    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        check_plain_data(tree, str(file), MOST_ENTRIES)
    except (*UNREADABLE, yaml.YAMLError, UserError):
        return None
    return tree


def _mapping(value: Any) -> dict[str, Any]:
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no word")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(f"{value!r:.100} is no count")
    return value


def _figure(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return float(value) if math.isfinite(float(value)) else math.nan
