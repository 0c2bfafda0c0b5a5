"""What the test step returned for each image, for results.json and the report."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from smallvision.training.metrics import in_order


class KeepProbabilities(Callback):
    """``probabilities``: float32, N x classes, in the order of the images; what ``test_step`` returned."""

    def __init__(self) -> None:
        self.probabilities = torch.empty(0)
        self._batches: list[Tensor] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._batches = []

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        if isinstance(outputs, Tensor):
            self._batches.append(outputs)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.probabilities = in_order(self._batches, trainer.world_size)
