"""Contenders, and the clock that times them all alike."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

WARM_UP_STEPS = 5
# Progress is drawn as at a terminal, but out of sight.
NOWHERE: dict[str, Any] = {"file": open(os.devnull, "w"), "force_terminal": True}  # noqa: SIM115, PTH123


@dataclass(frozen=True)
class Contender:
    """``measure(seconds)`` trains for about that long and gives images per second."""

    name: str
    measure: Callable[[float], float]


class Clock:
    """Counts images from the end of the warm-up until the time is over."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.seconds, self.device = seconds, device
        self.steps = self.images = 0
        self.start = self.elapsed = 0.0

    def step(self, images: int) -> bool:
        """Say that a step of so many images is done; True when it was the last."""
        self.steps += 1
        if self.steps <= WARM_UP_STEPS:
            if self.steps == WARM_UP_STEPS:
                self._wait()
                self.start = time.perf_counter()
            return False
        self.images += images
        if time.perf_counter() - self.start < self.seconds:
            return False
        self._wait()
        self.elapsed = time.perf_counter() - self.start
        return True

    @property
    def rate(self) -> float:
        return self.images / self.elapsed

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class ClockCallback(Callback):
    """A Trainer's clock: ends the training when its time is over."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.should_stop and self.clock.step(len(batch[1])):
            trainer.should_stop = True


def timed_fit(
    trainer_of: Callable[[Callback], pl.Trainer], module: pl.LightningModule, data: Any, clock: Clock
) -> float:
    trainer = trainer_of(ClockCallback(clock))
    if isinstance(data, pl.LightningDataModule):
        trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module, train_dataloaders=data)
    return clock.rate
