"""metrics.csv: a row per epoch, and one per validation within an epoch."""

import csv
import io
from collections.abc import Collection, Iterator
from operator import itemgetter
from typing import Any, TypeGuard

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from smallvision.core.errors import UserError
from smallvision.core.results import FIRST, TRAIN_AND_VAL, Row
from smallvision.core.run_dir import RunDir, write_text
from smallvision.training.callbacks import AfterEpoch, within_epoch


class MetricsCSV(AfterEpoch):
    """Writes what the module logged in each epoch to metrics.csv, and where it was validated before an epoch's end.

    ``metrics``: the names that are written; None: all that a module of the user's own logs.

    The rows are also in the checkpoint and the file is written from them, so a continued run's file has no gap.
    ``epoch``: the epochs done so far, a whole number in a row of the ``history`` of epochs, none in those ``within``
    one; ``lr``: the rate of the last step. ``error``: why the file could not be written.
    """

    def __init__(self, run_dir: RunDir, metrics: Collection[str] | None = TRAIN_AND_VAL) -> None:
        self.file, self.metrics = run_dir.metrics_csv, metrics
        self.history: list[Row] = []
        self.within: list[Row] = []
        self.error: OSError | None = None
        self._lr: float | Tensor | None = None
        self._validated_step = -1  # the last one after which it was
        self._before: dict[str, Tensor] = {}  # the metrics when the validation under way began
        self._before_epoch: dict[str, Tensor] = {}
        self._validated: set[str] = set()  # metrics of any validation
        self._latest: set[str] = set()  # those of the last one

    def state_dict(self) -> dict[str, object]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        history = state_dict["history"]
        if not isinstance(history, list) or not all(is_row(row) for row in history):
            raise UserError(f"{self.file.parent}: the history in its checkpoint is not that of a run")
        self.history = [dict.fromkeys([*FIRST, *(self.metrics or ())]) | row for row in history]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault("smallvision", {})["within"] = self.within

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        within = checkpoint["smallvision"].get("within", [])
        if not isinstance(within, list) or not all(is_row(row) for row in within):
            raise UserError(f"{self.file.parent}: the validations in its checkpoint are not those of a run")
        self.within = within

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._lr = optimizer.param_groups[0]["lr"] if optimizer.param_groups else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_epoch = {**trainer.callback_metrics}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = {**trainer.callback_metrics}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_step = trainer.global_step
        self._latest = logged = _changed(trainer.callback_metrics, self._before)
        self._validated |= logged
        if within_epoch(trainer):
            done = trainer.fit_loop.epoch_loop.batch_progress.current.ready / trainer.num_training_batches
            self._add(trainer, self.within, trainer.current_epoch + round(done, 6), logged)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        old = self._validated - (self._latest if self._validated_step == trainer.global_step else set())
        logged = _changed(trainer.callback_metrics, self._before_epoch) - old
        self._add(trainer, self.history, trainer.current_epoch + 1, logged)

    def lacks(self, metric: str, trainer: Trainer) -> bool:
        """Whether a module of the user's own does not log that metric, though the epoch is validated or never is."""
        due = self._validated_step == trainer.global_step or not trainer.enable_validation
        return self.metrics is None and due and metric not in trainer.callback_metrics

    def _add(self, trainer: Trainer, rows: list[Row], epoch: float, logged: Collection[str]) -> None:
        """Add a row with those of the metrics that were ``logged`` for it."""
        row: Row = {"epoch": epoch, "step": trainer.global_step, "lr": None if self._lr is None else float(self._lr)}
        metrics = trainer.callback_metrics
        names = sorted(own_names(metrics, logged)) if self.metrics is None else self.metrics
        rows.append(row | {name: metrics[name].item() if name in logged else None for name in names})
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        text, rows = io.StringIO(), sorted([*self.history, *self.within], key=itemgetter("epoch"))
        writer = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.error = None
        try:
            write_text(self.file, text.getvalue())
        except OSError as error:  # a full disk does not end a training that is under way
            self.error = error


def _changed(metrics: dict[str, Tensor], before: dict[str, Tensor]) -> set[str]:
    """The names of those that were logged since ``before``: Lightning keeps old values."""
    return {name for name, value in metrics.items() if before.get(name) is not value}


def own_names(metrics: Collection[str], logged: Collection[str]) -> Iterator[str]:
    """Those that were ``logged``, without the NAME_step and NAME_epoch that Lightning adds to a NAME, and without what
    has a column of that name.
    """
    for name in logged:
        stem, _, kind = name.rpartition("_")
        if name not in FIRST and not (kind in ("step", "epoch") and stem in metrics):
            yield name


def is_row(value: object) -> TypeGuard[Row]:
    """Whether it is a row of metrics.csv, as a checkpoint keeps it."""
    return (
        isinstance(value, dict)
        and value.keys() >= set(FIRST)
        and all(
            isinstance(name, str) and (number is None or isinstance(number, (int, float)))
            for name, number in value.items()
        )
    )
