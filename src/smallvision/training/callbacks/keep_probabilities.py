"""What the test step returned for each image, for results.json and the report."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from smallvision.training.classifier import Classifier


class KeepProbabilities(Callback):
    """``probabilities``: float32, N x classes, in the order of the images; what a Classifier's ``test_step`` gave."""

    def __init__(self) -> None:
        self.probabilities = torch.empty(0)
        self._batches: list[Tensor] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object) -> None:
        if isinstance(outputs, Tensor) and isinstance(pl_module, Classifier):
            self._batches.append(outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of several processes, each has every so-many-th row of each batch."""
        world_size = trainer.world_size
        parts = [[batch.cpu() for batch in self._batches]] * world_size
        if world_size > 1:
            distributed.all_gather_object(parts, parts[0])
        ordered = []
        for of_ranks in zip(*parts, strict=True):
            batch = of_ranks[0].new_empty((sum(map(len, of_ranks)), *of_ranks[0].shape[1:]))
            for rank, rows in enumerate(of_ranks):
                if len(rows):
                    batch[rank::world_size] = rows
            ordered.append(batch)
        self.probabilities = torch.cat(ordered) if ordered else torch.empty(0)
