"""Files of a run, as a run writes them, without a run."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

DATA: dict[str, Any] = {
    "name": "mnist", "source": "made here", "fingerprint": "0123456789abcdef", "stand_in_for": None,
    "remark": None, "train": 900, "val": 100, "test": 200,
}  # fmt: skip
METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc")
CLASSES = ["zero", "one", "two"]


def results(accuracy: Any = 0.5) -> dict[str, Any]:
    """results.json of a fit of two epochs."""
    return {
        "status": "completed", "task": "fit", "seed": 0, "device": "cpu", "precision": "32", "data": DATA,
        "model": {"name": "linear", "parameters": 30}, "optimizer": "adam", "epochs": 2, "steps": 40,
        "metrics": dict.fromkeys(METRICS) | {"val/acc": accuracy, "test/acc": 0.25},
        "best_epoch": 2, "best_checkpoint": "checkpoints/best.ckpt",
        "seconds": {"total": 3.0, "fit": 2.0, "test": 0.1,
                    "epochs": [{"train": 0.8, "val": 0.1, "rest": 0.05}] * 2},
        "tested": 200, "unsaved": [], "images_per_second": 1000.5, "reason": None,
    }  # fmt: skip


def config(**changes: Any) -> dict[str, Any]:
    """config.yaml with the keys that comparisons use; ``optimizer__lr=0.1`` changes optimizer.lr."""
    made: dict[str, Any] = {
        "task": "fit", "seed": 0, "trainer": {"max_epochs": 2}, "data": {"name": "mnist", "batch_size": 64},
        "model": {"name": "linear"}, "optimizer": {"name": "adam", "lr": 0.001},
    }  # fmt: skip
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            made[section] = made[section] | {name: value}
        else:
            made[section] = value
    return made


def arrays(right: "np.ndarray[Any, Any]", confidence: float = 0.8) -> dict[str, Any]:
    """report.npz of a test in which just those images (booleans, N) are classified correctly."""
    labels = np.arange(len(right)) % 3
    predicted = np.where(right, labels, (labels + 1) % 3)
    probabilities = np.full((len(right), 3), (1 - confidence) / 2, np.float32)
    probabilities[np.arange(len(right)), predicted] = confidence
    wrong = np.flatnonzero(~right)[:24]
    pictures = np.arange(8 * 8, dtype=np.uint8).reshape(1, 8, 8, 1)
    return {
        "classes": np.array(CLASSES), "test_probabilities": probabilities,
        "test_labels": labels.astype(np.int32),
        "mistake_index": wrong, "mistakes": np.repeat(pictures, len(wrong), 0),
        "samples": np.repeat(pictures, 5, 0), "sample_labels": np.array([0, 1, 2, 0, 1], np.int32),
        "filters": np.linspace(-1, 1, 4 * 9, dtype=np.float32).reshape(4, 1, 3, 3),
    }  # fmt: skip


def a_run(
    directory: Path,
    accuracy: float | None = 0.75,
    *,
    right: "np.ndarray[Any, Any] | None" = None,
    configured: dict[str, Any] | None = None,
    rows: int = 2,
    **changes: Any,
) -> Path:
    """The directory of a completed run; ``changes`` are of results.json."""
    directory.mkdir(parents=True)
    right = np.arange(200) % 4 > 0 if right is None else right
    made = results(accuracy) | {"tested": len(right)} | changes
    made["metrics"] = made["metrics"] | {"test/acc": float(right.mean()), "test/loss": 0.5, "val/loss": 0.6}
    (directory / "results.json").write_text(json.dumps(made))
    (directory / "config.yaml").write_text(yaml.safe_dump(configured or config(seed=made["seed"])))
    (directory / "overrides.yaml").write_text("[model=linear, optimizer=adam]\n")
    (directory / "environment.json").write_text(json.dumps({"hardware": "a machine", "packages": {"torch": "2"}}))
    with (directory / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc"])
        for epoch in range(1, rows + 1):
            writer.writerow([epoch, 20 * epoch, 0.001, 1 / epoch, 0.5, 0.6, (accuracy or 0.0) - 0.1 * (rows - epoch)])
    with (directory / "report.npz").open("wb") as file:
        np.savez_compressed(file, **arrays(right))
    return directory
