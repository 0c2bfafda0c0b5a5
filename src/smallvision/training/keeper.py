"""What a run keeps: one row per epoch, the best and the last checkpoint, and the clock."""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from smallvision.errors import Interrupted
from smallvision.files import write_text
from smallvision.signals import STOP
from smallvision.training import checkpoint
from smallvision.training.module import Classifier

COLUMNS = ("epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc")
Row = dict[str, float | int | None]


class Keeper(Checkpoint):
    """Writes ``metrics.csv``, ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` of a run directory.

    The best epoch is the one of the highest val/acc, then the lowest val/loss, then the earliest; without
    validation it is the last. ``every_n_steps`` saves last.ckpt within an epoch, too. The rows live in
    the checkpoint and the file is drawn from them, so a continued run's file is in one piece. ``tell`` is
    called with each row, whether it is the best so far, and its training images per second.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_steps: int | None = None,
        tell: Callable[[Row, bool, float], None] = lambda row, is_best, images_per_second: None,
    ) -> None:
        self.run_dir, self.every_n_steps, self.tell = run_dir, every_n_steps, tell
        self.best_path = run_dir / "checkpoints" / "best.ckpt"
        self.last_path = run_dir / "checkpoints" / "last.ckpt"
        self.history: list[Row] = []
        self.best: Row | None = None
        self.seconds = self.train_seconds = 0.0
        self.images = 0
        self.images_per_second = 0.0
        self._since = self._lap = time.perf_counter()
        self._lap_images = 0
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        self._clock()
        names = ("history", "best", "seconds", "train_seconds", "images")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    # The course of a run --------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        STOP.install()  # Lightning has put its own handlers there
        self._since = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.wait_count >= max(callback.patience, 1):
                trainer.should_stop = True  # it had stopped the run before
        if self._stop_asked(trainer):
            trainer.save_checkpoint(self.last_path)
            raise Interrupted

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lap, self._lap_images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._lap_images += len(batch[1]) * trainer.world_size
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # with this, Lightning validates what it ends with
        if trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # the epoch's end saves
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients gathered so far are in no checkpoint
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        stop = self._stop_asked(trainer)
        if due or stop:
            self._lap_done(trainer)
            trainer.save_checkpoint(self.last_path)
            self._lap = time.perf_counter()
        if stop:
            raise Interrupted

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lap_done(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lap_done(trainer)
        validated, self._validated = self._validated, False
        assert isinstance(pl_module, Classifier)
        figures = pl_module.figures
        row: Row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        for name in COLUMNS[2:]:
            known = name in figures and (validated or not name.startswith("val/"))
            row[name] = figures[name] if known else None
        self.history.append(row)
        better = self._is_better(row, validated)
        if better:
            self.best = row
        # last.ckpt comes last: a run killed before it does the epoch again, and these files with it.
        if trainer.is_global_zero:
            self._write_rows()
        if better:
            trainer.save_checkpoint(self.best_path)
            if trainer.is_global_zero:
                checkpoint.copy(self.best_path, self.last_path)
        else:
            trainer.save_checkpoint(self.last_path)
        self.tell(row, better, self.images_per_second)
        if self._stop_asked(trainer):
            raise Interrupted

    # ------------------------------------------------------------------------------------------------------

    def _is_better(self, row: Row, validated: bool) -> bool:
        if self.best is None or self.best["val/acc"] is None:
            return True
        if row["val/acc"] is None:
            return not validated and self.best["val/acc"] is None

        def rank(of: Row) -> tuple[float, float]:
            return of["val/acc"] or 0.0, -(of["val/loss"] or 0.0)

        return rank(row) > rank(self.best)

    def _stop_asked(self, trainer: pl.Trainer) -> bool:
        asked = STOP.signal is not None
        if trainer.world_size > 1:  # all processes stop at the same step
            return bool(trainer.strategy.reduce_boolean_decision(asked, all=False))
        return asked

    def _clock(self) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def _lap_done(self, trainer: pl.Trainer) -> None:
        """Add the training since the last lap to the sums."""
        if not self._lap_images:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        elapsed = now - self._lap
        self.train_seconds, self.images = self.train_seconds + elapsed, self.images + self._lap_images
        self.images_per_second = self._lap_images / elapsed
        self._lap, self._lap_images = now, 0

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.run_dir / "metrics.csv", text.getvalue())
