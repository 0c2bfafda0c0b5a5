"""The classic pipeline, as the field's templates have it."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from smallvision.config.schema import Config
from smallvision.data.module import ImageDataModule
from smallvision.tasks.bench.clock import NOWHERE, Clock, Contender, timed_fit
from smallvision.tasks.bench.pipelines import network_and_optimizer
from smallvision.training.factory import Experiment


def classic(name: str, config: Config, experiment: Experiment) -> Contender:
    """The pipeline of the field's templates: torchvision's data set with transforms of each image, a
    DataLoader, and a LightningModule that logs loss and accuracy at every step to a progress bar; float32.
    """

    def measure(seconds: float) -> float:
        device = experiment.device
        network, optimizer = network_and_optimizer(config, experiment, torch.device("cpu"), like_ours=False)
        loader = DataLoader(_per_image(experiment.data), batch_size=experiment.data.batch_size, shuffle=True)
        module = _ClassicModule(network, optimizer, len(experiment.data.dataset.classes))

        def trainer_of(callback: Callback) -> pl.Trainer:
            return pl.Trainer(
                accelerator=device.accelerator,
                devices=1,
                max_epochs=1000,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                callbacks=[RichProgressBar(console_kwargs=NOWHERE), callback],
            )

        return timed_fit(trainer_of, module, loader, Clock(seconds, torch.device(device.kind)))

    return Contender(name, measure)


def _per_image(data: ImageDataModule) -> Dataset[Any]:
    """torchvision's own data set, which makes a PIL image of each, over the training images that we have."""
    from torchvision import datasets, transforms

    steps: list[Any] = []
    if data.augmentation.shift:
        steps.append(transforms.RandomCrop(data.dataset.shape[1:], data.augmentation.shift, padding_mode="reflect"))
    if data.augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    steps += [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    chosen = data.indices["train"]
    images, labels = data.dataset.train_images[chosen], data.dataset.train_labels[chosen]
    found: Any
    if data.dataset.shape[0] == 1:
        found = datasets.MNIST.__new__(datasets.MNIST)  # its __init__ looks for files
        found.data, found.targets = images[:, 0], labels
    else:
        found = datasets.CIFAR10.__new__(datasets.CIFAR10)
        found.data, found.targets = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
    found.transform, found.target_transform = transforms.Compose(steps), None
    return found


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
        self.log("train/loss", self.loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer
