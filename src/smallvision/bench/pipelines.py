"""Ways to train the same network on the same images, each as a contender that can be timed."""

import copy
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from smallvision.bench.clock import NOWHERE, Clock, Contender, timed_fit
from smallvision.data.module import VisionData
from smallvision.overrides import Config
from smallvision.randomness import stream
from smallvision.screen import Screen
from smallvision.training.display import Display
from smallvision.training.inputs import Whiten
from smallvision.training.optimizers import make_optimizer
from smallvision.training.setup import Setup, make_network, make_setup, make_trainer


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
            display = Display(Screen(Console(**NOWHERE)), epochs=1000)
            return make_trainer(trainer_config, setup.device, run_dir, callbacks=[display, callback], **own)

        return timed_fit(trainer_of, setup.model, data, Clock(seconds, torch.device(setup.device.kind)))

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
        network, optimizer = network_and_optimizer(config, setup, device, like_ours=like_ours)
        images, labels = _floats(setup.data, channels_last)
        images, labels = images.to(device), labels.to(device)
        augmentation = setup.data.augmentation
        bf16 = like_ours and setup.device.precision == "bf16-mixed"
        clock, size = Clock(seconds, device), setup.data.batch_size
        smoothing = config["loss"]["label_smoothing"]
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
                    loss = F.cross_entropy(network(batch), truth, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if clock.step(len(chosen)):
                    return clock.rate

    return Contender(name, measure)


def network_and_optimizer(
    config: Config, setup: Setup, device: torch.device, *, like_ours: bool
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same network from its first weights on, on floats; its whitening layer, if any, before it."""
    record, whiten = setup.data.data, setup.model.whiten
    shape = whiten.shape(record.shape) if isinstance(whiten, Whiten) else record.shape
    network = make_network(config, shape, len(record.classes))
    optimizer = make_optimizer(
        config, network.to(device), setup.device.with_kernel if like_ours else lambda section: section
    )
    whole = nn.Sequential(copy.deepcopy(whiten), network).to(device)
    if like_ours and setup.device.channels_last:
        whole = whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return whole, optimizer


def _floats(data: VisionData, channels_last: bool) -> tuple[Tensor, Tensor]:
    """All training images, normalised, as float32: what the raw loop keeps in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    chosen = data.indices["train"]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    images = data.data.train_images[chosen].float().div_(255).sub_(mean).div_(std)
    return images.contiguous(memory_format=layout), data.data.train_labels[chosen]
