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

from smallvision.core.errors import Interrupted, UserError
from smallvision.core.run_dir import write_text
from smallvision.core.system import STOP
from smallvision.training import checkpoint
from smallvision.training.classifier import Classifier

COLUMNS = ("epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc")
KEPT = ("history", "best", "seconds", "train_seconds", "images")
SHARE_OF_TIME = 50  # saves by time take at most one part in so many
STEPS_TO_AGREE = 50
Row = dict[str, float | int | None]


class Keeper(Checkpoint):
    """Writes ``metrics.csv``, ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` of a run directory.

    The best epoch is the one of the highest val/acc, then the lowest val/loss, then the earliest; without
    validation it is the last. Within an epoch last.ckpt is saved every ``every_n_steps``, and every
    ``every_n_minutes`` as long as that takes no more than a fiftieth of the time. The ``keep`` last ones
    stay. The rows live in the checkpoint and the file is drawn from them, so a continued run's file is in
    one piece. ``tell`` is called with each row, whether it is the best so far, and its training images per
    second; ``warn`` with what could not be saved: training goes on, and :attr:`unsaved` keeps it;
    ``look`` before every save, and raises where the run has gone astray.
    """

    def __init__(
        self,
        run_dir: Path,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        keep: int = 1,
        tell: Callable[[Row, bool, float], None] = lambda row, is_best, images_per_second: None,
        warn: Callable[[str], None] = lambda line: None,
        look: Callable[[pl.Trainer], None] = lambda trainer: None,
    ) -> None:
        self.look = look
        self.run_dir, self.every_n_steps, self.tell, self.warn = run_dir, every_n_steps, tell, warn
        self.every_n_minutes, self.keep = every_n_minutes, keep
        self.unsaved: list[str] = []
        self._failing: set[Path] = set()
        self.saved_step = 0  # of the last.ckpt that lies there
        self._saved_at = time.perf_counter()
        self._save_took = 0.0
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
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rows = [*state_dict["history"], *([state_dict["best"]] if state_dict["best"] is not None else [])]
        if not all(isinstance(row, dict) and row.keys() == set(COLUMNS) for row in rows):
            raise UserError(f"{self.last_path}: its history is not that of a run")
        for name in KEPT:
            setattr(self, name, state_dict[name])

    # The course of a run --------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        STOP.install()  # Lightning has put its own there, which ends a run on SIGTERM with exit code 0
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.wait_count >= max(callback.patience, 1):
                trainer.should_stop = True  # it had stopped the run before
        self._saved_at, self.saved_step = time.perf_counter(), trainer.global_step
        if self._stop_asked(trainer):
            self._save_last(trainer)
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
        due = due or self._time_has_come(trainer, batch_idx)
        stop = self._stop_asked(trainer)
        if due or stop:
            self._lap_done(trainer)
            self.look(trainer)
            self._save_last(trainer)
            self._lap = time.perf_counter()
        if stop:
            raise Interrupted

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lap_done(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._stop_asked(trainer):  # the steps since the last save are done again
            raise Interrupted

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        STOP.install()  # as for training

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module)

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
        before, better = self.best, self._is_better(row, validated)
        if better:
            self.best = row
        # last.ckpt comes last: a run killed before it does the epoch again, and these files with it.
        if trainer.is_global_zero:
            self._try(self._write_rows, self.run_dir / "metrics.csv")
        if better and self._try(lambda: trainer.save_checkpoint(self.best_path), self.best_path):
            self._save_last(trainer, of=self.best_path)
        else:
            self.best = before if better else self.best  # best.ckpt stays that of the epoch before
            self._save_last(trainer)
        self.tell(row, better, self.images_per_second)
        if self._stop_asked(trainer):
            raise Interrupted

    # ------------------------------------------------------------------------------------------------------

    def _time_has_come(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether last.ckpt is old enough; several processes, which must agree, ask at few steps."""
        if self.every_n_minutes is None or (trainer.world_size > 1 and batch_idx % STEPS_TO_AGREE):
            return False
        waited = time.perf_counter() - self._saved_at
        due = waited >= max(60 * self.every_n_minutes, SHARE_OF_TIME * self._save_took)
        if trainer.world_size > 1:
            return bool(trainer.strategy.broadcast(due))
        return due

    def _save_last(self, trainer: pl.Trainer, of: Path | None = None) -> None:
        """Write last.ckpt, as a copy ``of`` what was just written where there is such a file."""
        started = time.perf_counter()
        if trainer.is_global_zero and self.last_path.is_file():
            self._try(lambda: checkpoint.keep_older(self.last_path, self.keep), self.last_path)
        if of is None:
            saved = self._try(lambda: trainer.save_checkpoint(self.last_path), self.last_path)
        else:
            saved = not trainer.is_global_zero or self._try(lambda: checkpoint.copy(of, self.last_path), self.last_path)
        self.saved_step = trainer.global_step if saved else self.saved_step
        self._saved_at = time.perf_counter()
        self._save_took = self._saved_at - started

    def _try(self, write: Callable[[], None], path: Path) -> bool:
        """Whether it could be written. A full disk, say, does not end a training that is under way; it is
        told once, until that file can be written again.
        """
        try:
            write()
        except OSError as error:
            said = error.strerror or str(error)
            if path not in self._failing:
                self.unsaved.append(f"{path.name}: {said}")
                self.warn(f"could not save {path}: {said}; training goes on")
            self._failing.add(path)
            return False
        self._failing.discard(path)
        return True

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
