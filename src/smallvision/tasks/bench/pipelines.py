"""Ways to train the same network on the same images, each as a contender that can be timed."""

import copy
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import rich.console
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.rng import stream
from smallvision.data.module import ImageDataModule
from smallvision.tasks.bench.clock import NOWHERE, Clock, Contender, timed_fit
from smallvision.training.callbacks.progress import Display
from smallvision.training.factory import Experiment, make_experiment, make_network, make_trainer
from smallvision.training.layers import Whiten
from smallvision.training.optimizers import make_optimizer


def ours(name: str, config: Config, data: ImageDataModule, run_dir: Path) -> Contender:
    """Our run with that config: the same data module, LightningModule and Trainer as ``task=fit``."""

    def measure(seconds: float) -> float:
        experiment = make_experiment(config, data)
        own = {"logger": False, "enable_checkpointing": False}
        trainer_config = {
            **config,
            "trainer": {**config["trainer"], "max_epochs": 1000, "limit_val_batches": 0},
        }

        def trainer_of(callback: Callback) -> pl.Trainer:
            display = Display(Console(rich.console.Console(**NOWHERE)), epochs=1000)
            return make_trainer(trainer_config, experiment.device, run_dir, callbacks=[display, callback], **own)

        return timed_fit(trainer_of, experiment.model, data, Clock(seconds, torch.device(experiment.device.kind)))

    return Contender(name, measure)


def raw_loop(name: str, config: Config, experiment: Experiment, *, like_ours: bool) -> Contender:
    """The loop that a good engineer writes by hand: normalised float images in memory, batches by index.

    ``like_ours``: our memory format, precision and optimizer kernel, else float32 and torch's defaults.
    Augmentation, where the config has it, is ours, on the whole batch.
    """

    def measure(seconds: float) -> float:
        device = torch.device(experiment.device.kind)
        channels_last = like_ours and experiment.device.channels_last
        torch.use_deterministic_algorithms(False)  # our own run may have turned it on
        network, optimizer = network_and_optimizer(config, experiment, device, like_ours=like_ours)
        images, labels = _floats(experiment.data, channels_last)
        images, labels = images.to(device), labels.to(device)
        augmentation = experiment.data.augmentation
        bf16 = like_ours and experiment.device.precision == "bf16-mixed"
        clock, size = Clock(seconds, device), experiment.data.batch_size
        smoothing = config["loss"]["label_smoothing"]
        while True:
            order = torch.randperm(len(labels)).to(device)
            for start in range(0, len(labels), size):
                chosen = order[start : start + size]
                batch, truth = images[chosen], labels[chosen]
                if augmentation:
                    batch = augmentation(batch, augmentation.draw(len(chosen), stream(0, "bench", device=device)))
                with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                    loss = F.cross_entropy(network(batch), truth, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if clock.step(len(chosen)):
                    return clock.rate

    return Contender(name, measure)


def network_and_optimizer(
    config: Config, experiment: Experiment, device: torch.device, *, like_ours: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same network from its first weights on, on floats; its whitening layer, if any, before it."""
    record, whiten = experiment.data.dataset, experiment.model.whiten
    shape = whiten.shape(record.shape) if isinstance(whiten, Whiten) else record.shape
    network = make_network(config, shape, len(record.classes))
    optimizer = make_optimizer(
        config, network.to(device), experiment.device.with_kernel if like_ours else lambda section: section
    )
    whole = nn.Sequential(copy.deepcopy(whiten), network).to(device)
    if like_ours and experiment.device.channels_last:
        whole = whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return whole, optimizer


def _floats(data: ImageDataModule, channels_last: bool) -> tuple[Tensor, Tensor]:
    """All training images, normalised, as float32: what the raw loop keeps in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    chosen = data.indices["train"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    images = data.dataset.train_images[chosen].float().div_(255).sub_(mean).div_(std)
    return images.contiguous(memory_format=layout), data.dataset.train_labels[chosen]
