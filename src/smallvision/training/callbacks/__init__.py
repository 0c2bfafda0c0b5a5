"""Lightning callbacks, one a file: what makes a run exact, safe and visible. They work with any LightningModule."""

from collections.abc import Mapping
from typing import TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

C = TypeVar("C", bound=Callback)


class AfterEpoch(Checkpoint):
    """A callback whose ``on_train_epoch_end`` sees what the LightningModule logged in its own.

    Lightning calls callbacks of the type Checkpoint after the module, and in their order, and others before it.
    """


def find_callback(trainer: Trainer, kind: type[C]) -> C | None:
    """The trainer's callback of that class."""
    return next((one for one in trainer.callbacks if isinstance(one, kind)), None)  # type: ignore[attr-defined]


def loss_of(outputs: STEP_OUTPUT) -> Tensor | None:
    """The loss of a training step; a step that optimizes by itself need not give one."""
    return outputs.get("loss") if isinstance(outputs, Mapping) else None


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation comes after this step; a run that is continued from a save before it goes on without it.

    One that comes by the clock is not known before, and not at the same moment in each of several processes.
    """
    fetcher, by_batches = trainer.fit_loop._data_fetcher, hasattr(trainer, "val_check_interval")
    return fetcher is not None and by_batches and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def within_epoch(trainer: Trainer) -> bool:
    """Whether a validation is one after which the epoch goes on."""
    return not (trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.should_stop)
