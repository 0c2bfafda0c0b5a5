"""The schema of ``results.json``: a task builds a :class:`Results` and writes it; whoever reads the file, reads one."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import TypeVar, get_args, get_origin, get_type_hints

from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir

METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc")
TRAIN_AND_VAL = METRICS[:4]
FIRST = ("epoch", "step", "lr")  # columns of metrics.csv, before those of metrics
MAX_ITEMS = 100_000  # of a list
Row = dict[str, float | None]  # of metrics.csv: epoch, step, lr and metrics by their names
K = TypeVar("K")


def is_better(row: Row, best: Row | None, monitor: str | None, mode: str) -> bool:
    """Whether the epoch of ``row`` is better than the best one before it: by the metric ``monitor``, then by val/loss;
    where there is no such metric, the later one is.
    """
    if best is None or monitor is None or best.get(monitor) is None:
        return True
    return row.get(monitor) is not None and _rank(row, monitor, mode) > _rank(best, monitor, mode)


def _rank(row: Row, monitor: str, mode: str) -> tuple[float, float]:
    value = row[monitor] or 0.0
    return (-math.inf if math.isnan(value) else value if mode == "max" else -value), -(row.get("val/loss") or 0.0)


def metrics_of(row: Row) -> Row:
    """The metrics of a row."""
    return {name: value for name, value in row.items() if name not in FIRST}


@dataclass(frozen=True)
class DataResults:
    """What the run worked on. ``fingerprint``: sixteen hex digits of images, labels and class names;
    ``stand_in_for``: the data set that was asked for where this one replaces it; ``train``, ``val`` and
    ``test``: numbers of images.
    """

    name: str
    source: str
    fingerprint: str
    stand_in_for: str | None = None
    remark: str | None = None
    train: int = 0
    val: int = 0
    test: int = 0


@dataclass(frozen=True)
class ModelResults:
    name: str
    parameters: int


@dataclass(frozen=True)
class EpochSeconds:
    """Seconds of one epoch: its training steps, its validation, and the rest (mostly checkpoints)."""

    train: float
    val: float
    rest: float


@dataclass(frozen=True)
class Seconds:
    """``total`` and ``fit``: of every process that worked on the run; of one that was killed, up to its last save.
    ``test``: of the last test. ``compile``: what torch.compile took, None where nothing was compiled.
    """

    total: float | None = None
    fit: float | None = None
    test: float | None = None
    epochs: list[EpochSeconds] = field(default_factory=list)
    compile: float | None = None


@dataclass
class Results:
    """How a run ended and what it measured.

    ``status``: completed, interrupted, failed or pruned, with the ``reason`` of a failure. ``metrics``: of the best
    epoch, by the names in :data:`METRICS`, None where there is none, and by those of a module of the user's own.
    ``best_checkpoint``: relative to the run directory, or as it was given. ``saved_model``: the plain state dict.
    ``balanced_accuracy``: of the test, the mean of the accuracies of the classes. ``tested``: images that were tested;
    ``times_tested``: how often the run's test set was read. ``cut_short``: the keys that left batches out, as typed.
    ``unsaved``: what could not be written, and why. ``directory``: of the run, once they are written or read.
    ``extra``: what only one task reports, under its own keys beside the others.
    """

    status: str
    task: str
    seed: int
    device: str
    precision: str
    data: DataResults
    model: ModelResults
    optimizer: str
    epochs: int = 0
    steps: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    best_checkpoint: str | None = None
    seconds: Seconds = field(default_factory=Seconds)
    images_per_second: float | None = None
    reason: str | None = None
    saved_model: str | None = None
    best_epoch: int | None = None
    balanced_accuracy: float | None = None
    tested: int = 0
    times_tested: int = 0
    cut_short: str | None = None
    unsaved: list[str] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)
    directory: Path | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        self.metrics = dict.fromkeys(METRICS) | self.metrics

    @property
    def state(self) -> str:
        """How the run ended, for tables."""
        return "cut short" if self.cut_short and self.status == "completed" else self.status

    @property
    def tested_text(self) -> str:
        return "tested " + {0: "once", 1: "once", 2: "twice"}.get(self.times_tested, f"{self.times_tested} times")

    def to_dict(self) -> dict[str, object]:
        """The content of results.json."""
        tree = dataclasses.asdict(self)
        del tree["directory"]
        metrics = {name: value for name, value in self.metrics.items() if value is not None and math.isfinite(value)}
        tree["metrics"] = dict.fromkeys(self.metrics) | metrics  # JSON has no NaN
        return tree | tree.pop("extra")

    def write(self, run_dir: RunDir) -> None:
        """Write results.json, whole or not at all; of several processes of one run, rank 0 writes it.

        While the status is "running" it is running.json, which is removed once results.json is there.
        """
        running, self.directory = self.status == "running", run_dir.path
        file = run_dir.running_json if running else run_dir.results_json
        run_dir.write(file, json.dumps(self.to_dict(), indent=2) + "\n")
        if run_dir.is_writer and not running:
            run_dir.running_json.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """The results in that file. Keys of no field are ignored; numbers that are infinite become NaN.

        Raises UserError, naming the file, where no run could have written it.
        """
        try:
            results = _parse(cls, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, MemoryError) as error:
            raise UserError(f"{path}: not a run's results ({type(error).__name__}: {error})") from None
        assert isinstance(results, cls)
        results.directory = path.parent
        return results


def _parse(kind: object, value: object) -> object:
    """``value`` of a JSON file as the type ``kind``; TypeError or KeyError where it is not of that type."""
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        hints, tree, values = get_type_hints(kind), _checked(value, dict), {}
        for one in dataclasses.fields(kind):
            required = one.default is one.default_factory is dataclasses.MISSING
            if one.name != "extra" and one.init and (required or one.name in tree):
                values[one.name] = _parse(hints[one.name], tree[one.name])
        return kind(**values)
    if get_origin(kind) is UnionType:
        return None if value is None else _parse(get_args(kind)[0], value)
    if get_origin(kind) is list:
        return [_parse(get_args(kind)[0], one) for one in _checked(value, list)[:MAX_ITEMS]]
    if get_origin(kind) is dict:
        return {name: _parse(get_args(kind)[1], one) for name, one in _checked(value, dict).items()}
    if kind is float:
        number = value if isinstance(value, float) else float(_checked(value, int))
        return number if math.isfinite(number) else math.nan
    if kind is int and not 0 <= _checked(value, int) < 2**63:
        raise TypeError(f"{value!r:.100} is out of range")
    return _checked(value, kind) if isinstance(kind, type) else value


def _checked(value: object, kind: type[K]) -> K:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r:.100} is not of type {kind.__name__}")
    return value
