"""A run that is asked to stop ends after the step that it is in, saved."""

import sys
import time

from lightning.pytorch import LightningModule, Trainer

from smallvision.core.errors import Interrupted, Pruned
from smallvision.core.run_dir import RunDir
from smallvision.core.system import STOP
from smallvision.training.callbacks import AfterEpoch, find_callback, validation_follows
from smallvision.training.callbacks.checkpointing import Checkpointing

SECONDS = 0.2  # from one check for the file to the next


class GracefulStop(AfterEpoch):
    """Raises Interrupted after a SIGINT or SIGTERM, or when a file ``stop`` appears in ``run_dir``; Pruned where that
    file reads "pruned", unless the last epoch is over.

    In training, last.ckpt is saved first; several processes agree on the step. In validation the steps since the
    last save are done again when the run is continued.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.pruned = False
        self._checked = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        STOP.install()  # Lightning has put its own there, which ends a run on SIGTERM with exit code 0
        self._stop_if_requested(trainer, save=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._checked = 0.0  # a pruner decides between epochs
        self._stop_if_requested(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        if trainer.should_stop or loop.batch_progress.is_last_batch or validation_follows(trainer):
            return  # the epoch's end saves, or what comes after the validation
        if not (batch_idx + 1) % trainer.accumulate_grad_batches:  # gradients gathered so far are in no checkpoint
            self._stop_if_requested(trainer, save=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_requested(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: object) -> None:
        self._stop_if_requested(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        STOP.install()  # as for training

    def on_test_batch_end(self, trainer: Trainer, *_: object) -> None:
        self._stop_if_requested(trainer)

    def _stop_if_requested(self, trainer: Trainer, save: bool = False) -> None:
        done = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        over = trainer.testing or trainer.should_stop or done >= (trainer.max_epochs or 0)  # nothing is left to prune
        requested = STOP.signal is not None or self._file_is_there(over)
        if trainer.world_size > 1:  # all processes stop at the same step
            requested = bool(trainer.strategy.reduce_boolean_decision(requested, all=False))
        if not requested:
            return
        STOP.ending, self.pruned = True, trainer.strategy.broadcast(self.pruned)
        checkpointing = find_callback(trainer, Checkpointing)
        if save and checkpointing is not None:
            checkpointing.save_now(trainer)
        raise Pruned if self.pruned else Interrupted

    def _file_is_there(self, over: bool) -> bool:
        now = time.monotonic()
        if now - self._checked < SECONDS:
            return False
        self._checked = now
        if not self.run_dir.stop_requested():
            return False
        file = self.run_dir.stop_file
        self.pruned = file.read_text(errors="replace").strip() == "pruned"
        if self.pruned and over:
            return False
        print(f"\n{file}: stopping after this step", file=sys.stderr)
        return True
