"""What a run left in its directory, read with care: the files may be missing, damaged or somebody else's."""

import csv
import glob
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from smallvision.config import untrusted
from smallvision.config.schema import CLASSIFIER, NOT_OF_OWN_MODULE
from smallvision.core.errors import UserError
from smallvision.core.results import Results, Row, is_better, metrics_of
from smallvision.core.run_dir import assign, command, is_locked, using
from smallvision.reports.evaluation import Accuracy, Evaluation

MAX_BYTES = 2**30  # of report.npz, unpacked
RUNNING = "running.json"  # instead of results.json while a run is under way
STEP_COLUMNS = ("epoch", "loss", "lr")
MAX_ROWS = 100_000  # of metrics.csv
MAX_CURVES = 12
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
    RecursionError, csv.Error, yaml.YAMLError, UserError,
)  # fmt: skip


class ReportArrays(NamedTuple):
    """The content of report.npz, by which a page shows images and judges probabilities; what is not known is empty.

    ``classes``: their names. ``test_probabilities`` (N x classes) and ``test_labels`` of the tested images.
    ``mistakes`` (uint8, N x H x W x C) and ``mistake_index``: the misclassified ones of the highest confidence, in
    falling order. ``samples`` (as ``mistakes``) and ``sample_labels``: of the first training batch. ``filters`` of the
    first layer, N x C x H x W. ``layers``: their names and classes, ``layer_counts``: their parameters and their FLOPs
    for one image.
    """

    classes: npt.NDArray[np.str_] = np.zeros(0, np.str_)
    test_probabilities: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
    test_labels: npt.NDArray[np.int32] = np.zeros(0, np.int32)
    mistakes: npt.NDArray[np.uint8] = np.zeros((0, 0, 0, 0), np.uint8)
    mistake_index: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    samples: npt.NDArray[np.uint8] = np.zeros((0, 0, 0, 0), np.uint8)
    sample_labels: npt.NDArray[np.int32] = np.zeros(0, np.int32)
    filters: npt.NDArray[np.float32] = np.zeros((0, 0, 0, 0), np.float32)
    layers: npt.NDArray[np.str_] = np.zeros((0, 2), np.str_)
    layer_counts: npt.NDArray[np.int64] = np.zeros((0, 2), np.int64)

    @classmethod
    def read(cls, directory: Path) -> "ReportArrays":
        """Those of a run; all empty where the file is missing or is none that a run writes."""
        file = directory / "report.npz"
        try:
            with zipfile.ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                    return cls()
            with np.load(file, allow_pickle=False) as archive:
                arrays = cls(**archive)
        except UNREADABLE:
            return cls()
        return arrays if arrays._consistent() else cls()

    def _consistent(self) -> bool:
        """Whether types, sizes and indices of the arrays fit each other."""
        if _kinds(self) != _kinds(ReportArrays()):
            return False
        classes, images = len(self.classes), len(self.test_probabilities)
        indices = ((self.test_labels, classes), (self.sample_labels, classes), (self.mistake_index, images))
        return (
            classes > 0
            and (images, len(self.mistakes), len(self.samples))
            == (len(self.test_labels), len(self.mistake_index), len(self.sample_labels))
            and all(index.min() >= 0 and index.max() < end for index, end in indices if len(index))
            and (not images or self.test_probabilities.shape[1] == classes)
            and bool(np.isfinite(self.test_probabilities).all())
            and (self.layers.shape, self.layer_counts.shape) == ((len(self.layers), 2),) * 2
        )


def _kinds(arrays: tuple[npt.NDArray[np.generic], ...]) -> list[tuple[str, int]]:
    return [(array.dtype.kind, array.ndim) for array in arrays]


@dataclass(frozen=True)
class RunView:
    """A run directory. Of its files, results.json must be there; what else is missing or damaged is empty."""

    directory: Path
    results: Results

    @classmethod
    def read(cls, directory: Path) -> "RunView":
        """Raises UserError where there is no results.json that a run could have written, nor, while it is under way, a
        running.json; then the results are what its rows say so far.
        """
        if not (directory / RUNNING).is_file():
            return cls(directory, Results.read(directory / "results.json"))
        view = cls(directory, Results.read(directory / RUNNING))
        results, rows = view.results, view.rows
        if not is_locked(directory):
            results.status, results.reason = "interrupted", "Its process was killed."
        if rows:
            monitor, mode = str(view.module.get("monitor", "val/acc")), str(view.module.get("mode", "max"))
            best: Row = rows[0]
            for row in rows[1:]:
                best = row if is_better(row, best, monitor, mode) else best
            results.epochs, results.steps = len(rows), int(rows[-1]["step"] or 0)
            results.metrics |= metrics_of(best)
            results.best_epoch = int(best["epoch"] or 0)
        return view

    @cached_property
    def config(self) -> dict[str, object]:
        return _mapping(self.directory / "config.yaml")

    @property
    def module(self) -> dict[str, object]:
        """The config's section of that name, which older runs do not have."""
        module = self.config.get("module")
        return module if isinstance(module, dict) else {}

    @property
    def own_module(self) -> str | None:
        """The ``_target_`` of a LightningModule of the user's own."""
        target = str(self.module.get("_target_", CLASSIFIER))
        return None if target == CLASSIFIER else target

    def row(self) -> dict[str, object]:
        """Of a table of runs: how it ended, what it measured, and its config by full keys."""
        results = self.results
        measured = ("task", "device", "seed", "epochs", "steps", "images_per_second")
        row = {"run": str(self.directory), "status": results.state, **{key: getattr(results, key) for key in measured}}
        row |= {"parameters": results.model.parameters, "seconds": results.seconds.total, **results.metrics}
        return row | {key: value for key, value, _ in self.settings if key not in row}

    @cached_property
    def overrides(self) -> list[str]:
        tree = _tree(self.directory / "overrides.yaml")
        return [value for value in tree if isinstance(value, str)] if isinstance(tree, list) else []

    @cached_property
    def environment(self) -> dict[str, object]:
        return _mapping(self.directory / "environment.json")

    @property
    def rows(self) -> list[dict[str, float | None]]:
        """Of metrics.csv, one per epoch."""
        return [row for row in self.all_rows if (row["epoch"] or math.nan).is_integer()]

    @cached_property
    def all_rows(self) -> list[dict[str, float | None]]:
        """Of metrics.csv, also those of validations within an epoch."""
        return read_rows(self.directory)

    @cached_property
    def arrays(self) -> ReportArrays:
        return ReportArrays.read(self.directory)

    @cached_property
    def steps(self) -> dict[str, npt.NDArray[np.float32]]:
        """Of steps.npy, by its columns: of each step the epochs done after it, its loss, and its learning rate."""
        try:
            table = np.load(self.directory / "steps.npy", mmap_mode="r", allow_pickle=False)
            columns = np.stack([table[name].astype(np.float32) for name in STEP_COLUMNS])
        except (*UNREADABLE, IndexError):
            columns = np.zeros((len(STEP_COLUMNS), 0), np.float32)
        return dict(zip(STEP_COLUMNS, columns[:, np.isfinite(columns).all(0)], strict=True))

    @cached_property
    def class_names(self) -> list[str]:
        return [str(name) for name in self.arrays.classes]

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """Of the images that were tested."""
        arrays = self.arrays
        return Evaluation(arrays.test_probabilities, arrays.test_labels) if len(arrays.test_labels) else None

    @property
    def test_accuracy(self) -> Accuracy | None:
        return Accuracy.of(self.results.metrics["test/acc"], self.results.tested)

    @property
    def val_accuracy(self) -> Accuracy | None:
        """Of the best epoch."""
        return Accuracy.of(self.results.metrics["val/acc"], self.results.data.val)

    def column(self, name: str) -> dict[int, float]:
        """One column of metrics.csv by epoch, without the values that are missing, NaN or infinite."""
        return {int(epoch): value for epoch, value in self.points(name).items() if epoch.is_integer()}

    def points(self, name: str) -> dict[float, float]:
        """As :meth:`column`, also within epochs."""
        pairs = [(row["epoch"] or math.nan, row.get(name)) for row in self.all_rows]
        return {
            epoch: value
            for epoch, value in pairs
            if value is not None and math.isfinite(epoch) and math.isfinite(value)
        }

    @property
    def curves(self) -> dict[str, list[str]]:
        """What has a learning curve, by its title: a metric of metrics.csv, or that of training and of validation."""
        names = [*dict.fromkeys(name for row in self.all_rows for name in metrics_of(row))]
        found: dict[str, list[str]] = {}
        for name in names:
            pair = [f"train{name.removeprefix('train')}", f"val{name.removeprefix('train')}"]
            if name == pair[0] and pair[1] in names:
                found[name[len("train") + 1 :]] = pair
        together = [name for pair in found.values() for name in pair]
        found |= {name: [name] for name in names if name not in together}
        return dict(islice(found.items(), MAX_CURVES))

    @property
    def settings(self) -> list[tuple[str, object, bool]]:
        """Each key of the config that the run uses, its value, and whether it was typed on the command line."""
        typed = {override.lstrip("+").partition("=")[0].replace("/", ".") for override in self.overrides}
        flat = sorted(flatten(self.config).items(), key=lambda entry: "." in entry[0])
        if self.own_module:
            unused = tuple(f"{key}." for key in NOT_OF_OWN_MODULE)
            flat = [(key, value) for key, value in flat if not f"{key}.".startswith(unused)]
        return [(key, value, bool({key, key.removesuffix(".name")} & typed)) for key, value in flat]

    @property
    def commands(self) -> dict[str, str]:
        """Command lines that go on from this run: resume, repeat, extend, report, test, predict and export."""
        results, run = self.results, self.directory
        found = {"report": ["task=report", assign("runs", run)]}
        if results.task == "fit":
            if results.status in ("interrupted", "failed"):
                found["resume"] = [assign("resume", run)]
            if not self.continued:
                found["repeat"] = [assign("rerun", run)]
            trainer = self.config.get("trainer")
            whole = isinstance(trainer, dict) and trainer.get("max_epochs") == results.epochs  # not stopped early
            if results.status == "completed" and whole:
                found["extend"] = [assign("resume", run), f"trainer.max_epochs={2 * results.epochs}"]
        if best := results.best_checkpoint:
            inside = results.task == "fit" and not Path(best).is_absolute() and (run / best).is_file()
            checkpoint = assign("checkpoint", run / best if inside else best)
            tasks = {"test": [], "predict": ["images=FILES"], "export": ["format=onnx"]}
            for task, more in {"test": []}.items() if self.own_module else tasks.items():
                found[task] = [f"task={task}", checkpoint, *more]
        used = using(self.config.get("use"))
        return {
            name: command(*arguments, *(used if name != "report" else []), anywhere=True)
            for name, arguments in found.items()
        }

    @property
    def continued(self) -> list[str]:
        """From which step on a run went on with another schedule, so that no single command gives it."""
        lines = self.config.get("continued")
        return [str(line) for line in lines] if isinstance(lines, list) else []


def read_rows(directory: Path) -> list[dict[str, float | None]]:
    """Those of a run's metrics.csv; none where it is missing or damaged."""
    try:
        with (directory / "metrics.csv").open(encoding="utf-8", newline="") as lines:
            rows = [row for row in islice(csv.DictReader(lines), MAX_ROWS) if row.get("epoch")]
        return [{str(name): float(value) if value else None for name, value in row.items()} for row in rows]
    except UNREADABLE:
        return []


def flatten(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """A config by full keys, as ``optimizer.lr``."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def find_runs(patterns: str | list[str]) -> list[Path]:
    """The run directories at those paths, in any depth below them, or below what they match as globs.

    Raises UserError where one of them leads to none.
    """
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        there = {
            file.parent
            for start in map(Path, glob.glob(pattern, recursive=True))
            for file in (start, start / RUNNING, *start.rglob("results.json"))
            if file.name in ("results.json", RUNNING) and file.is_file()
        }
        if not there:
            raise UserError(f"runs={pattern}: no runs there (no results.json); use runs=DIR or a glob in quotes")
        found |= there
    return sorted(found)


def is_sweep_dir(path: Path) -> bool:
    """Whether a sweep wrote that directory."""
    return (path / "sweep.yaml").is_file()


def task_of(directory: Path) -> str | None:
    """What the run did (fit, test, predict ...), None where its results.json does not say."""
    running = (directory / RUNNING).is_file()
    task = _mapping(directory / (RUNNING if running else "results.json")).get("task")
    return task if isinstance(task, str) else None


def _mapping(file: Path) -> dict[str, object]:
    tree = _tree(file)
    return {str(name): value for name, value in tree.items()} if isinstance(tree, dict) else {}


def _tree(file: Path) -> object:
    """The content of a JSON or YAML file, None where it is missing or damaged."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            return json.loads(text)
        tree: object = yaml.safe_load(text)
        untrusted.check_plain_data(tree, str(file), untrusted.MAX_ENTRIES)  # of aliases, YAML makes trees of any size
    except UNREADABLE:
        return None
    return tree
