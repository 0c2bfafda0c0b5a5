"""The callback by which a run waits for its sweep's pruner."""

from typing import Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

import smallvision.tasks.fit  # noqa: F401 - a worker imports everything once
from smallvision.core.errors import Interrupted


class Channel(Protocol):
    """One end of a connection to the sweep."""

    def send(self, message: object, /) -> None: ...

    def recv(self) -> object: ...


class AskAfterEpoch(Callback):
    """Before each epoch but the first, waits until the sweep has read the run's directory.

    An epoch is in metrics.csv once it is saved, which is before the next one starts. Where the pruner decided against
    the run, there is a file ``stop`` then.
    """

    def __init__(self, connection: Channel) -> None:
        self.connection = connection

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 0:
            return
        try:
            self.connection.send(("epoch", None))
            self.connection.recv()
        except (EOFError, BrokenPipeError):  # the sweep was killed
            raise Interrupted from None
