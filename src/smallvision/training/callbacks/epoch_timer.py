"""Where the time goes: of the run, of each epoch, and how many images a second it trained on."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

PARTS = ("train", "val", "rest")
KEPT = ("epochs", "seconds", "train_seconds", "images")


class EpochTimer(Callback):
    """``epochs``: seconds of each epoch's steps, validation and the rest, which is mostly checkpoints; ``seconds``: of
    the fit so far; ``images`` seen in ``train_seconds``, saves apart; ``images_per_second``: the latest.

    Kept in the checkpoint, so a continued run has its earlier epochs; of steps that a kill made it do again, the
    last time counts.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []
        self.seconds = self.train_seconds = 0.0
        self.images = 0
        self.images_per_second = 0.0
        self._epoch: dict[str, float] = {}
        self._since = self._part_start = self._lap = time.perf_counter()
        self._lap_images = 0
        self._paused = True

    def state_dict(self) -> dict[str, Any]:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        return {name: getattr(self, name) for name in KEPT} | {"epochs": [dict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in KEPT:
            setattr(self, name, state_dict[name])
        if not all(_is_epoch(epoch) for epoch in self.epochs):
            self.epochs = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count("rest")
        self._epoch = dict.fromkeys(PARTS, 0.0)
        self._part_start = self._lap = time.perf_counter()
        self._lap_images, self._paused = 0, False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._paused:
            self._paused, self._lap = False, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._lap_images += len(batch[1]) * trainer.world_size

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._end_lap(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_lap(trainer)
        self._count("train")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count("val")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end_lap(trainer)
        if self._epoch:
            self._count("rest" if self._epoch["train"] else "train")
            self.epochs.append(self._epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count("rest")

    def _count(self, part: str) -> None:
        now = time.perf_counter()
        if self._epoch:
            self._epoch[part] += now - self._part_start
        self._part_start = now

    def _end_lap(self, trainer: pl.Trainer) -> None:
        """Add the training since the last lap to the sums."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the steps are only queued so far
        now = time.perf_counter()
        if self._lap_images:
            elapsed = now - self._lap
            self.train_seconds, self.images = self.train_seconds + elapsed, self.images + self._lap_images
            self.images_per_second = self._lap_images / elapsed
        self._paused, self._lap, self._lap_images = True, now, 0


def _is_epoch(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == set(PARTS) and all(isinstance(v, float) for v in value.values())
