"""metrics.csv: one row per epoch."""

import csv
import io
from typing import TypeGuard

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, write_text
from smallvision.training.callbacks import AfterEpoch

COLUMNS = ("epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc")
Row = dict[str, float | None]


class MetricsCSV(AfterEpoch):
    """Writes what the module logged in each epoch to metrics.csv.

    The rows are also in the checkpoint and the file is written from them, so a continued run's file has no gap.
    ``lr``: the rate of the epoch's last step. ``error``: why the file could not be written.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.file = run_dir.metrics_csv
        self.history: list[Row] = []
        self.error: OSError | None = None
        self._lr: float | Tensor | None = None
        self._validated = False  # in this epoch

    def state_dict(self) -> dict[str, object]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        history = state_dict["history"]
        if not isinstance(history, list) or not all(is_row(row) for row in history):
            raise UserError(f"{self.file.parent}: the history in its checkpoint is not that of a run")
        self.history = history

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._lr = optimizer.param_groups[0]["lr"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row: Row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["lr"] = None if self._lr is None else float(self._lr)
        for name in COLUMNS[3:]:
            known = name in trainer.callback_metrics and (self._validated or not name.startswith("val/"))
            row[name] = trainer.callback_metrics[name].item() if known else None
        self.history.append(row)
        self._validated = False
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        self.error = None
        try:
            write_text(self.file, text.getvalue())
        except OSError as error:  # a full disk does not end a training that is under way
            self.error = error


def is_row(value: object) -> TypeGuard[Row]:
    """Whether it is a row of metrics.csv, as a checkpoint keeps it."""
    return isinstance(value, dict) and value.keys() == set(COLUMNS)
