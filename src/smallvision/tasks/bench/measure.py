"""What task=bench times: ways to train the same network on the same images, and products on each device."""

import copy
import logging
import math
import os
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import lightning.pytorch as pl
import rich.console
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import Interrupted
from smallvision.core.rng import stream
from smallvision.core.run_dir import RunDir
from smallvision.core.system import STOP
from smallvision.data.loader import Batch
from smallvision.data.module import ImageDataModule
from smallvision.training.classifier import Classifier
from smallvision.training.factory import Experiment, make_callbacks, make_experiment, make_trainer
from smallvision.training.optimizers import make_optimizer

# Its import warns where there is a CUDA compiler and no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer  # noqa: E402
from torch.utils.benchmark.utils.timer import timer as now  # noqa: E402 - once the device has finished

WARM_UP_STEPS = 5
# A progress bar is drawn as on a terminal, but nobody sees it.
UNSEEN = open(os.devnull, "w")  # noqa: SIM115, PTH123
SIZES = (100, 300, 1000, 2000, 4000)
SECONDS = 0.3  # each product is repeated for at least that long
ELEMENTS, LARGE = 1_000_000, 10_000
FLOATS = 2**29  # of images, 2 GB: as many as a measurement needs, also of a data set that exceeds the memory


# Training ------------------------------------------------------------------------------------------------


class Clock(Callback):
    """Counts images from the end of the warm-up until ``seconds`` have passed, in a Trainer or in a loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps = self.images = 0
        self.start = self.elapsed = 0.0

    def step(self, images: int) -> bool:
        """Count a step of that many images; True when the time is over. Raises Interrupted after Ctrl-C or SIGTERM."""
        if STOP.signal is not None:  # our run has put the handler of a fit there
            raise Interrupted
        self.steps += 1
        if self.steps <= WARM_UP_STEPS:
            self.start = now() if self.steps == WARM_UP_STEPS else 0.0
            return False
        self.images += images
        if time.perf_counter() - self.start < self.seconds:
            return False
        self.elapsed = now() - self.start
        return True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if not trainer.should_stop:
            trainer.should_stop = self.step(len(batch[1]))

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.elapsed


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


@dataclass(frozen=True)
class Contender(ABC):
    """One way to train ``experiment``'s network, from its initial weights, on its training images."""

    name: str
    config: Config
    experiment: Experiment

    def measure(self, seconds: float) -> float:
        """Images per second, over about that long."""
        clock = Clock(seconds)
        self.train(clock)
        return clock.rate

    @abstractmethod
    def train(self, clock: Clock) -> None:
        """Train until the clock stops it."""

    def network_and_optimizer(self, device: str, like_ours: bool = False) -> tuple[nn.Module, Optimizer]:
        """Both in our memory format and with our optimizer kernel, or in PyTorch's defaults. A whitening layer comes
        first, where the config has one.
        """
        predictor, ours = self.experiment.predictor, self.experiment.device
        assert predictor is not None
        network = copy.deepcopy(predictor.network).to(device)
        optimizer = make_optimizer(self.config, network, ours if like_ours else None)
        layout = memory_format(like_ours and ours.channels_last)
        whole = nn.Sequential(copy.deepcopy(predictor.whiten), network).to(device)
        return whole.to(memory_format=layout), optimizer  # type: ignore[call-overload]


class SmallVision(Contender):
    """Our run: the data module, LightningModule, Trainer and callbacks of ``task=fit``."""

    def train(self, clock: Clock) -> None:
        experiment = make_experiment(self.config, self.experiment.data)
        config = self.config.updated(
            {
                "trainer": {"max_epochs": 1000, "check_val_every_n_epoch": 1000},
                "checkpoint": {"every_n_steps": None, "every_n_minutes": 0.1, "keep": 2},  # as in configs/task/fit.yaml
            }
        )
        console = Console(rich.console.Console(file=UNSEEN, force_terminal=True))
        with tempfile.TemporaryDirectory() as folder:  # for its checkpoints and metrics
            callbacks = [*make_callbacks(config, experiment, RunDir(Path(folder)), console, None), clock]
            trainer = make_trainer(config, experiment.device, Path(folder), callbacks)
            trainer.fit(experiment.model, datamodule=experiment.data)


@dataclass(frozen=True)
class RawLoop(Contender):
    """The loop that a good engineer writes by hand: normalised float images in memory, batches by index.

    In float32, PyTorch's default memory format and optimizer kernel, or in ours. Augmentation, where the config has
    it, is ours, on the whole batch.
    """

    like_ours: bool = False

    def train(self, clock: Clock) -> None:
        device, data = self.experiment.device, self.experiment.data
        torch.use_deterministic_algorithms(False)  # our own run may have turned it on
        network, optimizer = self.network_and_optimizer(device.kind, self.like_ours)
        images, labels = float_images(data, self.like_ours and device.channels_last)
        images, labels = images.to(device.kind), labels.to(device.kind)
        bf16 = self.like_ours and device.precision == "bf16-mixed"
        assert isinstance(self.experiment.model, Classifier)
        loss_of = self.experiment.model.loss.to(device.kind)
        while True:
            for indices in torch.randperm(len(labels)).to(device.kind).split(data.batch_size):
                batch, targets = images[indices], labels[indices]
                if data.augmentation:
                    generator = stream(0, "bench", device=device.kind)
                    batch = data.augmentation(batch, data.augmentation.draw(len(batch), generator))
                with torch.autocast(device.kind, torch.bfloat16) if bf16 else nullcontext():
                    loss = loss_of(network(batch), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if clock.step(len(batch)):
                    return


class ClassicPipeline(Contender):
    """What templates do: torchvision's dataset with transforms of each image, a DataLoader, and a LightningModule
    that logs loss and accuracy at every step to a progress bar; in float32.
    """

    def train(self, clock: Clock) -> None:
        data = self.experiment.data
        module = ClassicModule(*self.network_and_optimizer("cpu"), len(data.dataset.classes))
        trainer = pl.Trainer(
            accelerator=self.experiment.device.accelerator,
            devices=1,
            max_epochs=1000,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[RichProgressBar(console_kwargs={"file": UNSEEN, "force_terminal": True}), clock],
        )
        trainer.fit(module, DataLoader(per_image_dataset(data), batch_size=data.batch_size, shuffle=True))


class ClassicModule(pl.LightningModule):
    def __init__(self, network: nn.Module, optimizer: Optimizer, classes: int) -> None:
        super().__init__()
        self.network, self.optimizer = network, optimizer
        self.loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
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
    """Training images, normalised, as float32, and their labels."""
    indices = limited_indices(data)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    images = data.dataset.train_images[indices].float().div_(255).sub_(mean).div_(std)
    return images.contiguous(memory_format=memory_format(channels_last)), data.dataset.train_labels[indices]


def limited_indices(data: ImageDataModule) -> Tensor:
    """The indices of all training images, or of the first :data:`FLOATS` of their pixels."""
    return data.indices["train"][: FLOATS // math.prod(data.dataset.shape)]


def per_image_dataset(data: ImageDataModule) -> Dataset[tuple[Tensor, int]]:
    """torchvision's dataset, which makes a PIL image of each, over our training images."""
    from torchvision import datasets, transforms

    indices, (channels, *size) = limited_indices(data), data.dataset.shape
    images, labels = data.dataset.train_images[indices], data.dataset.train_labels[indices]
    kind = datasets.MNIST if channels == 1 else datasets.CIFAR10
    dataset = kind.__new__(kind)  # its __init__ reads files
    dataset.data = images[:, 0] if channels == 1 else images.permute(0, 2, 3, 1).numpy()
    dataset.targets = labels if channels == 1 else labels.tolist()
    shift = data.augmentation.shift
    crop = [transforms.RandomCrop(size, shift, padding_mode="reflect")] if shift else []
    flip = [transforms.RandomHorizontalFlip()] if data.augmentation.flip else []
    normalise = transforms.Normalize(data.mean, data.std)
    dataset.transform = transforms.Compose([*crop, *flip, transforms.ToTensor(), normalise])
    dataset.target_transform = None
    return dataset


# Products ------------------------------------------------------------------------------------------------


@dataclass
class Products:
    """``gflops``: by dtype and size n, of n x n by n x n. The others are float32: ``elementwise_ms`` multiplies two
    arrays of a million elements, ``oblong_ms`` is 512 x 1024 by 1024 x 512, ``large_s`` a square of 10,000 x 10,000.
    """

    gflops: dict[str, dict[int, float]] = field(default_factory=dict)
    elementwise_ms: float = 0.0
    oblong_ms: float = 0.0
    large_s: float | None = None


def time_products(device: torch.device, with_large: bool) -> Products:
    """All products of random numbers on one device."""
    products = Products()
    for dtype in (torch.float32, torch.bfloat16):
        rates = products.gflops[str(dtype).removeprefix("torch.")] = {}
        for size in SIZES:
            a, b = torch.randn(2, size, size, device=device).to(dtype)
            rates[size] = 2 * size**3 / seconds("a @ b", a, b) / 1e9
    a, b = torch.randn(2, ELEMENTS, device=device)
    products.elementwise_ms = 1e3 * seconds("a * b", a, b)
    a, b = torch.randn(512, 1024, device=device), torch.randn(1024, 512, device=device)
    products.oblong_ms = 1e3 * seconds("a @ b", a, b)
    if with_large:
        square = torch.randn(LARGE, LARGE, device=device)
        products.large_s = seconds("a @ b", square, square)
    return products


def seconds(statement: str, a: Tensor, b: Tensor) -> float:
    """Median seconds of a statement in ``a`` and ``b``, after a warm-up."""
    timed = Timer(statement, globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return timed.blocked_autorange(min_run_time=SECONDS).median


def devices() -> list[torch.device]:
    """The CPU, and the accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [torch.device("cpu"), *([accelerator] if accelerator is not None else [])]
