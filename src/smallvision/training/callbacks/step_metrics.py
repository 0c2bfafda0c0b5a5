"""steps.npy: the loss and the learning rate of every step, for the curves of report.html."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.training.callbacks import loss_of

COLUMNS = [("epoch", np.float32), ("loss", np.float32), ("lr", np.float32)]
MAX_PENDING = 1000  # losses that are tensors of their own


class StepMetrics(Callback):
    """Keeps each step's loss on the device, and writes all of them at the end of an epoch.

    ``steps``: float32, steps so far x 3: the epochs done after the step, its loss (of several processes, that of the
    first), and its learning rate. They are in the checkpoint, so a continued run has them all.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.steps = torch.empty(0, 3)
        self._losses: list[Tensor] = []  # not yet pulled to the host
        self._others: list[tuple[float, float | Tensor]] = []  # epochs and rates of the same steps
        self._loss: Tensor | float = 0.0  # of the batches whose gradients are accumulated so far
        self._rate: float | Tensor | None = None  # of the step under way

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        rate = optimizer.param_groups[0]["lr"] if optimizer.param_groups else None
        self._rate = rate.clone() if isinstance(rate, Tensor) else rate

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        latest = loss_of(outputs)
        if latest is None:
            return
        loss = self._loss + latest.detach().reshape(1)  # divided by the number of accumulated batches
        self._loss = loss
        if self._rate is not None:
            self._losses.append(loss)
            self._others.append((trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches, self._rate))
            self._loss, self._rate = 0.0, None
            if len(self._losses) == MAX_PENDING:
                self._losses = [torch.cat(self._losses)]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._pull()
        checkpoint.setdefault("smallvision", {})["steps"] = self.steps

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        steps = checkpoint["smallvision"].get("steps", self.steps)
        if not isinstance(steps, Tensor) or steps.dtype != torch.float32 or steps.shape[1:] != (3,):
            raise UserError(f"{self.run_dir.path}: the losses of steps in its checkpoint are not those of a run")
        self.steps = steps

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pull()
        if self.run_dir.is_writer:
            table = np.rec.fromarrays(list(self.steps.T.numpy()), dtype=COLUMNS)
            with suppress(OSError), atomic_write(self.run_dir.steps_npy) as scratch, scratch.open("wb") as file:
                np.save(file, table)  # a full disk does not end a training that is under way

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with suppress(RuntimeError):  # of a device that has failed
            self.on_train_epoch_end(trainer, pl_module)

    def _pull(self) -> None:
        if self._losses:
            rows = torch.tensor([(epoch, 0.0, float(rate)) for epoch, rate in self._others])
            rows[:, 1] = torch.cat(self._losses).cpu()
            self.steps, self._losses, self._others = torch.cat([self.steps, rows]), [], []
