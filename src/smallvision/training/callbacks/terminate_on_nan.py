"""What goes wrong while a network trains becomes one line that says what to change."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.training.callbacks import loss_of

# How torch begins the RuntimeError of a CPU, of Windows' and of an Apple GPU, which have no class of their own.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
)
STEPS_ON_GPU = 100  # losses checked together, so that no step waits for the host


class TerminateOnNaN(Callback):
    """Ends a run whose loss is NaN or infinite, before that is saved.

    On a CPU every step is checked; elsewhere a hundred at once, and those before a save and at an epoch's end.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.losses: list[Tensor] = []
        self.batch = 0
        self.last_good = float("nan")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        loss = loss_of(outputs)
        if loss is None:
            return
        self.losses.append(loss.detach())
        self.batch = batch_idx + 1
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if pl_module.device.type == "cpu" or last or len(self.losses) == STEPS_ON_GPU:
            self.check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, *_: object) -> None:
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Raise UserError where one of the losses since the last check is NaN or infinite."""
        values = torch.stack(self.losses).tolist() if self.losses else []
        self.losses = []
        for ago, value in zip(reversed(range(len(values))), values, strict=True):
            if value - value == 0:  # neither nan nor infinite
                self.last_good = value
                continue
            step = trainer.global_step - ago // trainer.accumulate_grad_batches
            raise UserError(
                f"the loss turned {value} in epoch {trainer.current_epoch + 1}, step {step:,}, batch"
                f" {self.batch - ago:,} (it was {self.last_good:.4g} before): {self.cause()};"
                " what was saved before stays"
            )

    def cause(self) -> str:
        """The likely one, and what to change."""
        if self.last_good != self.last_good:
            return "from the first step on; look at data.normalisation and at the network"
        if self.config.device.precision == "16-mixed":
            return "half precision may overflow; try device.precision=bf16-mixed or 32, or a lower optimizer.lr"
        if self.config.module.is_own:
            return "most likely a learning rate is too high; lower it"
        return (
            f"most likely the learning rate is too high; lower optimizer.lr (now {self.config.optimizer.lr:g}), or set"
            " trainer.gradient_clip_val or scheduler.warmup"
        )


@contextmanager
def explain_out_of_memory(config: Config) -> Iterator[None]:
    """Out of memory becomes a UserError that names the keys which take it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        certain = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not certain and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        data = config.data
        raise UserError(
            f"out of memory: lower data.batch_size (now {data.batch_size}; trainer.accumulate_grad_batches"
            f" makes up for it) or data.eval_batch_size (now {data.eval_batch_size})"
        ) from error


@contextmanager
def explain_refusal() -> Iterator[None]:
    """What the Trainer itself refuses once it has the data becomes a UserError."""
    try:
        yield
    except (MisconfigurationException, ValueError) as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        module = str(frames[-1].f_globals.get("__name__"))
        if module == "torch.optim.lr_scheduler":
            reason = str(error).splitlines()[0]
            raise UserError(f"scheduler: {reason}; its length was fixed when the run began") from None
        if not module.startswith("lightning."):
            raise
        raise UserError(f"trainer: {str(error).strip().splitlines()[0]}") from None
