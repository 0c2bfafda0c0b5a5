"""Ways to train the same network on the same images, each as a contender that can be timed."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from smallvision.build import build
from smallvision.data.module import VisionData
from smallvision.overrides import Config
from smallvision.randomness import stream
from smallvision.training.device import Device
from smallvision.training.setup import Setup, make_network, make_setup, make_trainer

WARM_UP_STEPS = 5


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


def _timed_fit(
    trainer_of: Callable[[Callback], pl.Trainer], module: pl.LightningModule, data: Any, clock: Clock
) -> float:
    trainer = trainer_of(ClockCallback(clock))
    if isinstance(data, pl.LightningDataModule):
        trainer.fit(module, datamodule=data)
    else:
        trainer.fit(module, train_dataloaders=data)
    return clock.rate


def ours(name: str, config: Config, data: VisionData, run_dir: Path) -> Contender:
    """Our run with that config: the same data module, LightningModule and Trainer as ``task=fit``."""

    def measure(seconds: float) -> float:
        setup = make_setup(config, data)
        own = {"logger": False, "enable_checkpointing": False}
        trainer_config = {
            **config,
            "trainer": {**config["trainer"], "max_epochs": 1000, "limit_val_batches": 0},
        }

        def trainer_of(callback: Callback) -> pl.Trainer:
            return make_trainer(trainer_config, setup.device, run_dir, callbacks=[callback], **own)

        return _timed_fit(trainer_of, setup.model, data, Clock(seconds, torch.device(setup.device.kind)))

    return Contender(name, measure)


def raw_loop(name: str, config: Config, setup: Setup, *, like_ours: bool) -> Contender:
    """The loop that a good engineer writes by hand: normalised float images in memory, batches by index.

    ``like_ours``: our memory format, precision and optimizer kernel, else float32 and torch's defaults.
    Augmentation, where the config has it, is ours, on the whole batch.
    """

    def measure(seconds: float) -> float:
        device = torch.device(setup.device.kind)
        channels_last = like_ours and setup.device.channels_last
        torch.use_deterministic_algorithms(False)  # our own run may have turned it on
        chosen_kernel = setup.device.with_kernel(config["optimizer"]) if like_ours else config["optimizer"]
        network, optimizer = _network_and_optimizer(
            {**config, "optimizer": chosen_kernel}, setup, device, channels_last
        )
        images, labels = _floats(setup.data, channels_last)
        images, labels = images.to(device), labels.to(device)
        augmentation = setup.data.augmentation
        bf16 = like_ours and setup.device.precision == "bf16-mixed"
        clock, size = Clock(seconds, device), setup.data.batch_size
        while True:
            order = torch.randperm(len(labels)).to(device)
            for start in range(0, len(labels), size):
                chosen = order[start : start + size]
                batch, truth = images[chosen], labels[chosen]
                if augmentation:
                    batch = augmentation(
                        batch, augmentation.draw(len(chosen), stream(0, "bench", device=device))
                    )
                with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                    loss = F.cross_entropy(network(batch), truth)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if clock.step(len(chosen)):
                    return clock.rate

    return Contender(name, measure)


def classic(name: str, config: Config, setup: Setup) -> Contender:
    """The pipeline that the field's templates have: a torchvision data set with transforms of each image,
    a DataLoader, and a LightningModule that logs loss and accuracy at every step; float32.
    """

    def measure(seconds: float) -> float:
        device = setup.device
        network, optimizer = _network_and_optimizer(config, setup, torch.device("cpu"), False)
        loader = DataLoader(_PerImage(setup.data), batch_size=setup.data.batch_size, shuffle=True)
        module = _ClassicModule(network, optimizer, len(setup.data.data.classes))

        def trainer_of(callback: Callback) -> pl.Trainer:
            plain = Device(device.kind, "32", False, device.threads, device.hardware)
            base = {"trainer": {"max_epochs": 1000, "deterministic": False}}
            own = {"logger": False, "enable_checkpointing": False, "devices": 1}
            return make_trainer(base, plain, Path(), callbacks=[callback], **own)

        return _timed_fit(trainer_of, module, loader, Clock(seconds, torch.device(device.kind)))

    return Contender(name, measure)


def _network_and_optimizer(
    config: Config, setup: Setup, device: torch.device, channels_last: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    record = setup.data.data
    network = make_network(config, record.shape, len(record.classes)).to(device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer: torch.optim.Optimizer = build("optimizer", config["optimizer"], network.parameters())
    return network, optimizer


def _floats(data: VisionData, channels_last: bool) -> tuple[Tensor, Tensor]:
    """All training images, normalised, as float32: what the raw loop keeps in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    chosen = data.indices["train"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    images = data.data.train_images[chosen].float().div_(255).sub_(mean).div_(std)
    return images.contiguous(memory_format=layout), data.data.train_labels[chosen]


class _PerImage(Dataset[Any]):
    """One PIL image at a time through torchvision's transforms, as its own data sets give them."""

    def __init__(self, data: VisionData) -> None:
        from torchvision import transforms

        height, width = data.data.shape[1:]
        steps: list[Any] = []
        if data.augmentation.shift:
            steps.append(
                transforms.RandomCrop((height, width), data.augmentation.shift, padding_mode="reflect")
            )
        if data.augmentation.flip:
            steps.append(transforms.RandomHorizontalFlip())
        steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        self.transform = transforms.Compose(steps)
        self.images = data.data.train_images[data.indices["train"]].permute(0, 2, 3, 1).numpy()
        self.labels = data.data.train_labels[data.indices["train"]].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        picture = self.images[index]
        picture = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
        return self.transform(picture), self.labels[index]


class _ClassicModule(pl.LightningModule):
    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, classes: int) -> None:
        super().__init__()
        self.network, self.optimizer = network, optimizer
        self.loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.loss(loss)
        self.accuracy(logits.argmax(1), labels)
        self.log("train/loss", self.loss, on_step=False, on_epoch=True)
        self.log("train/acc", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer


def contenders(config: Config, setup: Setup, run_dir: Path) -> Iterator[Contender]:
    """Our run, the same with each of the device's choices turned off, and what others do."""
    yield ours("smallvision", config, setup.data, run_dir)
    off: dict[str, tuple[str, dict[str, Any], bool]] = {
        "float32": ("device", {"precision": "32"}, setup.device.precision != "32"),
        "contiguous": ("device", {"memory_format": "contiguous"}, setup.device.channels_last),
        "optimizer not fused": ("optimizer", {"fused": False}, "fused" in config["optimizer"]),
    }
    for words, (section, change, on) in off.items():
        if on:
            other = {**config, section: {**config[section], **change}}
            yield ours(f"  {words}", other, setup.data, run_dir)
    if setup.device.channels_last or setup.device.precision != "32":
        yield raw_loop("raw loop, our format and precision", config, setup, like_ours=True)
    yield raw_loop("raw loop, float32, default format", config, setup, like_ours=False)
    yield classic("classic pipeline", config, setup)
