"""best.ckpt and last.ckpt of a run directory."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities.model_helpers import is_overridden

from smallvision.core.console import Console
from smallvision.core.errors import UserError, did_you_mean
from smallvision.core.results import Row, is_better, metrics_of
from smallvision.core.run_dir import RunDir
from smallvision.training.callbacks import AfterEpoch, find_callback, validation_follows, within_epoch
from smallvision.training.callbacks.metrics_csv import MetricsCSV, is_row
from smallvision.training.checkpoint import copy

MAX_TIME_FRACTION = 1 / 50  # that saves by time may take
STEPS_TO_AGREE = 50
HOOKS = ("on_train_batch_end", "on_validation_end")  # in which it is saved within an epoch


def _nothing(*_: object) -> None:
    """Instead of a hook that has been called."""


class Checkpointing(AfterEpoch):
    """Saves ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt``. Comes after :class:`MetricsCSV`.

    The best epoch is the one of the best ``monitor`` (``mode``: max or min), then the lowest val/loss, then the
    earliest; without validation or ``monitor`` it is the last. Within an epoch last.ckpt is saved every
    ``every_n_steps``, and every ``every_n_minutes`` as long as that takes at most 1/50 of the time. The ``keep`` last
    ones stay. ``contents``: what each checkpoint holds under "smallvision", to rebuild the model. What cannot be saved
    is printed once and listed in ``unsaved``; training goes on.
    """

    def __init__(
        self,
        run_dir: RunDir,
        contents: dict[str, object],
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        keep: int = 1,
        monitor: str | None = "val/acc",
        mode: str = "max",
        console: Console | None = None,
    ) -> None:
        self.best_path, self.last_path = run_dir.best_checkpoint, run_dir.last_checkpoint
        self.contents, self.keep = contents, keep
        self.monitor, self.mode = monitor, mode
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.console = console or Console()
        self.best: Row | None = None
        self.unsaved: list[str] = []
        self.saved_step = 0  # of the last.ckpt that lies there
        self._after_validation = False  # whether to save then
        self._hooks: list[str] = []  # of the module, that are called here
        self._failing: set[Path] = set()
        self._saved_at = time.perf_counter()
        self._save_took = 0.0

    def state_dict(self) -> dict[str, object]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        best = state_dict["best"]
        if best is None or is_row(best):
            self.best = best
        else:
            raise UserError(f"{self.last_path}: its best epoch is not that of a run")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["smallvision"] = {**self.contents, **checkpoint.get("smallvision", {})}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopping = find_callback(trainer, EarlyStopping)
        if stopping is not None and stopping.wait_count >= max(stopping.patience, 1):
            trainer.should_stop = True  # it had stopped the run before
        self._saved_at, self.saved_step = time.perf_counter(), trainer.global_step
        self._hooks = [hook for hook in HOOKS if is_overridden(hook, pl_module)]
        pl_module.__dict__.update(dict.fromkeys(self._hooks, _nothing))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self._call_module(trainer, pl_module, "on_train_batch_end", outputs, batch, batch_idx)
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True  # with this, Lightning validates what it ends with
        if trainer.should_stop or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # the epoch's end saves
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients gathered so far are in no checkpoint
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if due or self._is_time(trainer, batch_idx):
            self._after_validation = validation_follows(trainer)
            if not self._after_validation:
                self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._call_module(trainer, pl_module, "on_validation_end")
        if self._after_validation and within_epoch(trainer):
            self._save_last(trainer)
        self._after_validation = False

    def _call_module(self, trainer: Trainer, pl_module: LightningModule, hook: str, *args: object) -> None:
        """Call a hook of a module of the user's own before anything is saved, so that the checkpoint has what it does:
        Lightning calls it after those of callbacks, where it then does nothing.
        """
        if hook in self._hooks:
            del pl_module.__dict__[hook]
            call._call_lightning_module_hook(trainer, hook, *args)
            pl_module.__dict__[hook] = _nothing

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for hook in self._hooks:
            pl_module.__dict__.pop(hook, None)

    def save_now(self, trainer: Trainer) -> None:
        """Write last.ckpt, unless it is that of this step."""
        if trainer.strategy.broadcast(self.saved_step != trainer.global_step or not self.last_path.is_file()):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = find_callback(trainer, MetricsCSV)
        assert metrics is not None
        self._note(metrics.file, metrics.error)
        row, before = metrics.history[-1], self.best
        if self.monitor is not None and metrics.lacks(self.monitor, trainer):
            nearest = did_you_mean(self.monitor, metrics_of(row))
            raise UserError(f"module.monitor={self.monitor}: the module logs no such metric.{nearest}")
        better = is_better(row, self.best, self.monitor, self.mode)
        if trainer.strategy.broadcast(better):  # a module of the user's own may not measure the same everywhere
            self.best = row
            if self._save(trainer, trainer.save_checkpoint, self.best_path):
                # last.ckpt comes last: a run killed before it does the epoch again, and these files with it.
                self._save_last(trainer, source=self.best_path)
                return
            self.best = before  # best.ckpt stays that of the epoch before
        self._save_last(trainer)

    def _is_time(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether last.ckpt is old enough; several processes, which must agree, ask at few steps."""
        if self.every_n_minutes is None or (trainer.world_size > 1 and batch_idx % STEPS_TO_AGREE):
            return False
        waited = time.perf_counter() - self._saved_at
        due = waited >= max(60 * self.every_n_minutes, self._save_took / MAX_TIME_FRACTION)
        return bool(trainer.strategy.broadcast(due))

    def _save_last(self, trainer: Trainer, source: Path | None = None) -> None:
        """Write last.ckpt, as a copy of ``source`` where that was just written."""
        started = time.perf_counter()
        if source is None:
            saved = self._save(trainer, partial(trainer.save_checkpoint, storage_options=self.keep), self.last_path)
        else:
            saved = not trainer.is_global_zero or self._try(partial(copy, source, keep=self.keep), self.last_path)
            saved = bool(trainer.strategy.broadcast(saved))
        if saved:
            self.saved_step = trainer.global_step
        self._saved_at = time.perf_counter()
        self._save_took = self._saved_at - started

    def _save(self, trainer: Trainer, write: Callable[[Path], None], path: Path) -> bool:
        """Whether rank 0, which alone writes, could; on every rank."""
        saved = self._try(write, path)
        if not saved and trainer.world_size > 1:
            trainer.strategy.barrier()  # of Lightning's save_checkpoint, where the others wait
        return bool(trainer.strategy.broadcast(saved))

    def _try(self, write: Callable[[Path], None], path: Path) -> bool:
        """Whether it could be written. A full disk, say, does not end a training that is under way."""
        try:
            write(path)
        except OSError as error:
            self._note(path, error)
            return False
        self._note(path, None)
        return True

    def _note(self, path: Path, error: OSError | None) -> None:
        """Print and keep an error once, until that file can be written again."""
        if error is None:
            self._failing.discard(path)
        elif path not in self._failing:
            reason = error.strerror or str(error)
            self.unsaved.append(f"{path.name}: {reason}")
            self._failing.add(path)
            self.console.print(f"  could not save {path}: {reason}; training goes on", style="bold red")
