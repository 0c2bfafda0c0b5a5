"""Where the time goes: of the run, of each epoch, and how many images a second it trained on."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from smallvision.core.run_dir import RunDir
from smallvision.data.loader import Batch

PARTS = ("train", "val", "rest")
KEPT = ("epochs", "seconds", "train_seconds", "images")


class EpochTimer(Callback):
    """``epochs``: seconds of each epoch's steps, validation and the rest, which is mostly checkpoints; ``seconds``: of
    the fit so far; ``images`` seen in ``train_seconds``; ``images_per_second``: of this epoch so far.

    Kept in the checkpoint with the seconds of ``run_dir``, so a continued run has those of its earlier epochs; of steps
    that a kill made it do again, the last time counts.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.epochs: list[dict[str, float]] = []
        self.seconds = self.train_seconds = self.images_per_second = 0.0
        self.images = 0
        self._epoch: dict[str, float] = {}
        self._part = "rest"
        self._since = self._part_start = time.perf_counter()
        self._part_images = 0
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def state_dict(self) -> dict[str, object]:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        return {name: getattr(self, name) for name in KEPT} | {"epochs": [dict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        for name in KEPT:
            setattr(self, name, state_dict[name])
        if not all(_is_epoch(epoch) for epoch in self.epochs):
            self.epochs = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(trainer, "train")
        self._epoch = dict.fromkeys(PARTS, 0.0)
        self._epoch_images, self._epoch_seconds = 0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self._part != "train":
            self._switch(trainer, "train")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        self._part_images += len(batch[1]) * trainer.world_size

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._switch(trainer, "rest")
        checkpoint.setdefault("smallvision", {})["seconds"] = self.run_dir.seconds

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        seconds = checkpoint["smallvision"].get("seconds")
        if isinstance(seconds, float):
            self.run_dir.seconds_before = max(self.run_dir.seconds_before, seconds)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(trainer, "val")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(trainer, "rest")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(trainer, "rest")
        if self._epoch:
            self.epochs.append(self._epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._switch(trainer, "rest")

    def _switch(self, trainer: Trainer, part: str) -> None:
        """Count the time since the last call for the part that it was spent on; ``part``: what comes now."""
        if self._part == "train" and trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the steps are only queued so far
        now = time.perf_counter()
        elapsed = now - self._part_start
        if self._epoch:
            self._epoch[self._part] += elapsed
        if self._part_images:
            self.train_seconds, self.images = self.train_seconds + elapsed, self.images + self._part_images
            self._epoch_images += self._part_images
            self._epoch_seconds += elapsed
            self.images_per_second = self._epoch_images / self._epoch_seconds
        self._part, self._part_start, self._part_images = part, now, 0


def _is_epoch(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == set(PARTS) and all(isinstance(v, float) for v in value.values())
