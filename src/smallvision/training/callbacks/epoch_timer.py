"""Where an epoch's time goes."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

PARTS = ("train", "val", "rest")


class Clock(Callback):
    """Seconds of each epoch: its steps, its validation, and the rest, which is mostly checkpoints.

    Kept in the checkpoint, so a run that was continued has its earlier epochs; of steps that a kill made it
    do again, the last time counts.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self._epoch: dict[str, float] = {}
        self._lap = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": [dict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        epochs = state_dict.get("epochs")
        if isinstance(epochs, list) and all(_is_epoch(epoch) for epoch in epochs):
            self.epochs = [dict(epoch) for epoch in epochs]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count("rest")
        self._epoch = dict.fromkeys(PARTS, 0.0)
        self._lap = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the steps are only ordered so far
        self._count("train")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count("val")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._epoch:
            self._count("rest" if self._epoch["train"] else "train")
            self.epochs.append(self._epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count("rest")

    def _count(self, part: str) -> None:
        now = time.perf_counter()
        if self._epoch:
            self._epoch[part] += now - self._lap
        self._lap = now


def _is_epoch(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == set(PARTS) and all(isinstance(v, float) for v in value.values())
