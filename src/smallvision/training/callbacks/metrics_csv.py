"""metrics.csv: a row per epoch, and one per validation within an epoch."""

import csv
import io
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, TypeGuard

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, write_text
from smallvision.training.callbacks import AfterEpoch, within_epoch

COLUMNS = ("epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc")
Row = dict[str, float | None]


class MetricsCSV(AfterEpoch):
    """Writes what the module logged in each epoch to metrics.csv, and where it was validated before an epoch's end.

    The rows are also in the checkpoint and the file is written from them, so a continued run's file has no gap.
    ``epoch``: the epochs done so far, a whole number in a row of the ``history`` of epochs, none in those ``within``
    one; ``lr``: the rate of the last step. ``error``: why the file could not be written.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.file = run_dir.metrics_csv
        self.history: list[Row] = []
        self.within: list[Row] = []
        self.error: OSError | None = None
        self._lr: float | Tensor | None = None
        self._validated_step = -1  # the last one after which it was

    def state_dict(self) -> dict[str, object]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        history = state_dict["history"]
        if not isinstance(history, list) or not all(is_row(row) for row in history):
            raise UserError(f"{self.file.parent}: the history in its checkpoint is not that of a run")
        self.history = history

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault("smallvision", {})["within"] = self.within

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        within = checkpoint["smallvision"].get("within", [])
        if not isinstance(within, list) or not all(is_row(row) for row in within):
            raise UserError(f"{self.file.parent}: the validations in its checkpoint are not those of a run")
        self.within = within

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._lr = optimizer.param_groups[0]["lr"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated_step = trainer.global_step
        if within_epoch(trainer):
            done = trainer.fit_loop.epoch_loop.batch_progress.current.ready / trainer.num_training_batches
            self._add(trainer, self.within, trainer.current_epoch + round(done, 6), ("val/loss", "val/acc"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = COLUMNS[3:] if self._validated_step == trainer.global_step else COLUMNS[3:5]
        self._add(trainer, self.history, trainer.current_epoch + 1, names)

    def _add(self, trainer: Trainer, rows: list[Row], epoch: float, names: Sequence[str]) -> None:
        """Add a row with the metrics of those names."""
        row: Row = {"epoch": epoch, "step": trainer.global_step, "lr": None if self._lr is None else float(self._lr)}
        metrics = trainer.callback_metrics
        rows.append(
            row | {name: metrics[name].item() if name in names and name in metrics else None for name in COLUMNS[3:]}
        )
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*self.history, *self.within], key=itemgetter("epoch")))
        self.error = None
        try:
            write_text(self.file, text.getvalue())
        except OSError as error:  # a full disk does not end a training that is under way
            self.error = error


def is_row(value: object) -> TypeGuard[Row]:
    """Whether it is a row of metrics.csv, as a checkpoint keeps it."""
    return isinstance(value, dict) and value.keys() == set(COLUMNS)
