"""metrics.csv: one row per epoch."""

import csv
import io
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer

from smallvision.core.errors import UserError
from smallvision.core.run_dir import write_text
from smallvision.training.callbacks import AfterEpoch

COLUMNS = ("epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc")
Row = dict[str, float | int | None]


class MetricsCSV(AfterEpoch):
    """Writes what the module logged in each epoch to ``run_dir``/metrics.csv.

    The rows are also in the checkpoint and the file is written from them, so a continued run's file has no gap.
    ``lr``: the rate of the epoch's last step. ``unsaved``: why the file could not be written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.file = run_dir / "metrics.csv"
        self.history: list[Row] = []
        self.error: OSError | None = None
        self._lr: Any = None
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not all(isinstance(row, dict) and row.keys() == set(COLUMNS) for row in state_dict["history"]):
            raise UserError(f"{self.file.parent}: the history in its checkpoint is not that of a run")
        self.history = state_dict["history"]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        self._lr = optimizer.param_groups[0]["lr"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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
        try:
            write_text(self.file, text.getvalue())
            self.error = None
        except OSError as error:  # a full disk does not end a training that is under way
            self.error = error
