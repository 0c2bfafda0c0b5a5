"""Ways to train the same network on the same images, each timed by the same clock."""

import copy
import os
import statistics
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import rich.console
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.rng import stream
from smallvision.data.module import ImageDataModule
from smallvision.training.callbacks.exact_resume import ExactResume
from smallvision.training.callbacks.keyed_randomness import KeyedRandomness
from smallvision.training.callbacks.progress import Progress
from smallvision.training.factory import Experiment, make_experiment, make_trainer
from smallvision.training.optimizers import make_optimizer

WARM_UP_STEPS = 5
# A progress bar is drawn as on a terminal, but nobody sees it.
UNSEEN: dict[str, Any] = {"file": open(os.devnull, "w"), "force_terminal": True}  # noqa: SIM115, PTH123


class Clock(Callback):
    """Counts images from the end of the warm-up until ``seconds`` have passed, in a Trainer or in a loop."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.seconds, self.device = seconds, device
        self.steps = self.images = 0
        self.start = self.elapsed = 0.0

    def step(self, images: int) -> bool:
        """Count a step of that many images; True when the time is over."""
        self.steps += 1
        if self.steps <= WARM_UP_STEPS:
            self.start = self._now() if self.steps == WARM_UP_STEPS else 0.0
            return False
        self.images += images
        if time.perf_counter() - self.start < self.seconds:
            return False
        self.elapsed = self._now() - self.start
        return True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.should_stop:
            trainer.should_stop = self.step(len(batch[1]))

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.elapsed

    def _now(self) -> float:
        """The time when the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass(frozen=True)
class Speed:
    """Images per second of one contender: median, range and every round. ``ours_is``: how many times as fast our run
    is, the median over the rounds.
    """

    images_per_second: float
    low: float
    high: float
    ours_is: float
    rounds: list[float]

    @classmethod
    def of(cls, rates: list[float], ours: list[float]) -> "Speed":
        ratios = [a / b for a, b in zip(ours, rates, strict=True)]
        return cls(statistics.median(rates), min(rates), max(rates), statistics.median(ratios), rates)


class Contender(ABC):
    """One way to train ``experiment``'s network, from its initial weights, on its training images."""

    def __init__(self, name: str, config: Config, experiment: Experiment, run_dir: Path) -> None:
        self.name, self.config, self.experiment, self.run_dir = name, config, experiment, run_dir
        self.device = torch.device(experiment.device.kind)

    def measure(self, seconds: float) -> float:
        """Images per second, over about that long."""
        clock = Clock(seconds, self.device)
        self.train(clock)
        return clock.rate

    @abstractmethod
    def train(self, clock: Clock) -> None:
        """Train until the clock stops it."""

    def network_and_optimizer(self, device: torch.device, like_ours: bool) -> tuple[nn.Module, Optimizer]:
        """Both in our memory format and with our optimizer kernel, or in PyTorch's defaults. A whitening layer comes
        first, where the config has one.
        """
        model = self.experiment.model
        whiten, network = copy.deepcopy(model.predictor.whiten), copy.deepcopy(model.predictor.network)
        network = network.to(device)
        optimizer = make_optimizer(self.config, network, self.experiment.device if like_ours else None)
        layout = memory_format(like_ours and self.experiment.device.channels_last)
        whole = nn.Sequential(whiten, network).to(device)
        return whole.to(memory_format=layout), optimizer  # type: ignore[call-overload]


class SmallVision(Contender):
    """Our run: the data module, LightningModule and Trainer of ``task=fit``."""

    def train(self, clock: Clock) -> None:
        experiment = make_experiment(self.config, self.experiment.data)
        config = self.config.updated({"trainer": {"max_epochs": 1000, "check_val_every_n_epoch": 1000}})
        progress = Progress(Console(rich.console.Console(**UNSEEN)), max_epochs=1000)
        callbacks = [KeyedRandomness(config.seed), ExactResume(), progress, clock]
        own: dict[str, Any] = {"callbacks": callbacks, "logger": False}
        trainer = make_trainer(config, experiment.device, self.run_dir, **own)
        trainer.fit(experiment.model, datamodule=experiment.data)


class RawLoop(Contender):
    """The loop that a good engineer writes by hand: normalised float images in memory, batches by index.

    In float32 and PyTorch's default memory format. Augmentation, where the config has it, is ours, on the whole batch.
    """

    like_ours = False

    def train(self, clock: Clock) -> None:
        device, data = self.experiment.device, self.experiment.data
        torch.use_deterministic_algorithms(False)  # our own run may have turned it on
        network, optimizer = self.network_and_optimizer(self.device, self.like_ours)
        images, labels = float_images(data, self.like_ours and device.channels_last)
        images, labels = images.to(self.device), labels.to(self.device)
        bf16 = self.like_ours and device.precision == "bf16-mixed"
        smoothing = self.config.loss.label_smoothing
        while True:
            for indices in torch.randperm(len(labels)).to(self.device).split(data.batch_size):
                batch, targets = images[indices], labels[indices]
                if data.augmentation:
                    generator = stream(0, "bench", device=self.device)
                    batch = data.augmentation(batch, data.augmentation.draw(len(batch), generator))
                with torch.autocast(device.kind, torch.bfloat16) if bf16 else nullcontext():
                    loss = F.cross_entropy(network(batch), targets, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if clock.step(len(batch)):
                    return


class RawLoopLikeOurs(RawLoop):
    """The same loop in our memory format and precision, and with our optimizer kernel."""

    like_ours = True


class ClassicPipeline(Contender):
    """What templates do: torchvision's dataset with transforms of each image, a DataLoader, and a LightningModule
    that logs loss and accuracy at every step to a progress bar; in float32.
    """

    def train(self, clock: Clock) -> None:
        data = self.experiment.data
        network, optimizer = self.network_and_optimizer(torch.device("cpu"), like_ours=False)
        loader = DataLoader(per_image_dataset(data), batch_size=data.batch_size, shuffle=True)
        module = ClassicModule(network, optimizer, len(data.dataset.classes))
        trainer = pl.Trainer(
            accelerator=self.experiment.device.accelerator,
            devices=1,
            max_epochs=1000,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[RichProgressBar(console_kwargs=UNSEEN), clock],
        )
        trainer.fit(module, train_dataloaders=loader)


class ClassicModule(pl.LightningModule):
    def __init__(self, network: nn.Module, optimizer: Optimizer, classes: int) -> None:
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
        self.log("train/loss", self.loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def float_images(data: ImageDataModule, channels_last: bool) -> tuple[Tensor, Tensor]:
    """All training images, normalised, as float32, and their labels."""
    indices = data.indices["train"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    images = data.dataset.train_images[indices].float().div_(255).sub_(mean).div_(std)
    return images.contiguous(memory_format=memory_format(channels_last)), data.dataset.train_labels[indices]


def per_image_dataset(data: ImageDataModule) -> Dataset[Any]:
    """torchvision's dataset, which makes a PIL image of each, over our training images."""
    from torchvision import datasets, transforms

    steps: list[Any] = []
    if data.augmentation.shift:
        steps.append(transforms.RandomCrop(data.dataset.shape[1:], data.augmentation.shift, padding_mode="reflect"))
    if data.augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    indices = data.indices["train"]
    images, labels = data.dataset.train_images[indices], data.dataset.train_labels[indices]
    dataset: Any
    if data.dataset.shape[0] == 1:
        dataset = datasets.MNIST.__new__(datasets.MNIST)  # its __init__ reads files
        dataset.data, dataset.targets = images[:, 0], labels
    else:
        dataset = datasets.CIFAR10.__new__(datasets.CIFAR10)
        dataset.data, dataset.targets = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
    dataset.transform, dataset.target_transform = transforms.Compose(steps), None
    return dataset
