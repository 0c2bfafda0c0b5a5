"""Lightning callbacks, one a file: what makes a run exact, safe and visible. They work with any LightningModule."""

from typing import TypeVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

C = TypeVar("C", bound=Callback)


class AfterEpoch(Checkpoint):
    """A callback whose ``on_train_epoch_end`` sees what the LightningModule logged in its own.

    Lightning calls callbacks of the type Checkpoint after the module, and in their order, and others before it.
    """


def find_callback(trainer: Trainer, kind: type[C]) -> C | None:
    """The trainer's callback of that class."""
    return next((one for one in trainer.callbacks if isinstance(one, kind)), None)  # type: ignore[attr-defined]
