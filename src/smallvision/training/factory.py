"""From a config to the things that train: data, model, device and Trainer."""

import copy
import json
import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.flop_counter import FlopCounterMode

from smallvision.config.schema import Config
from smallvision.config.targets import build
from smallvision.core.errors import UserError
from smallvision.core.rng import seeded
from smallvision.data.dataset import ImageDataset
from smallvision.data.module import ImageDataModule
from smallvision.training import device as devices
from smallvision.training.callbacks.compile import Compiler
from smallvision.training.checkpoint import FORMAT, PlainCheckpointIO
from smallvision.training.classifier import Classifier
from smallvision.training.layers import Normalise, TestTimeAugmentation, Whiten
from smallvision.training.optimizers import make_optimizer

DATA_CHOICES = (
    "name", "_target_", "val_size", "batch_size", "eval_batch_size", "drop_last", "shuffle",
    "augmentation", "normalisation",
)  # fmt: skip
# That many images give the directions of patches well enough; all numbers of all patches are in memory.
WHITEN_IMAGES, WHITEN_NUMBERS = 5_000, 100_000_000
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


@dataclass
class Experiment:
    """Everything of one run that torch computes with."""

    data: ImageDataModule
    model: Classifier
    device: devices.Device
    parameters: int
    flops: int


def make_data(config: Config) -> ImageDataModule:
    """The data module of that config; whatever is wrong with the data is refused here."""
    section = config["data"]
    own = {key: value for key, value in section.items() if key not in DATA_CHOICES}
    source = {"_target_": section["_target_"], "name": section["name"], **own}
    chosen = {key: section[key] for key in ("val_size", "batch_size", "eval_batch_size", "drop_last")}
    return ImageDataModule(
        load_images(json.dumps(source), config["data_dir"]),
        seed=config["seed"],
        **chosen,
        shuffle=section.get("shuffle", True),  # the first configs do not say
        **section["augmentation"],
        mean=section["normalisation"]["mean"],
        std=section["normalisation"]["std"],
    )


@lru_cache(maxsize=1)
def load_images(source: str, data_dir: str) -> ImageDataset:
    """The images of that source, a section of ``data`` in JSON; a worker's next trial finds them here."""
    image_data: ImageDataset = build("data", json.loads(source), data_dir=data_dir)
    return image_data


def make_network(config: Config, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network of that config for images of that shape, its weights keyed by the seed."""
    channels, height, width = shape
    with seeded(config["seed"], "initialisation"):
        network: nn.Module = build("model", config["model"], channels=channels, size=(height, width), classes=classes)
    return network


def make_experiment(
    config: Config,
    data: ImageDataModule,
    saved: Config | None = None,
    weights: Iterable[Tensor] | None = None,
) -> Experiment:
    """The model on its device. ``saved``: the "smallvision" part of a checkpoint to take the form from;
    ``weights``: the checkpoint's, which a network that they could not fill is refused by.
    """
    record = data.dataset
    plain = saved or describe(config, data)
    shape = (plain["shape"][0], plain["shape"][1], plain["shape"][2])
    whiten = make_whiten(plain["config"], shape)
    if config["tta"]["shift"] >= min(shape[1:]):
        raise UserError(f"tta.shift={config['tta']['shift']}: must be below the images' side, of {by(shape)}")
    if saved is not None and (list(record.shape) != saved["shape"] or len(record.classes) != len(saved["classes"])):
        raise UserError(
            f"data={config['data']['name']}: images of {by(record.shape)} in {len(record.classes)} classes;"
            f" the checkpoint is for {by(shape)} in {len(saved['classes'])}"
        )
    seen = whiten.shape(shape) if whiten else shape
    make = partial(make_network, config, seen, len(plain["classes"]))
    if weights is not None:
        refuse_larger(make, weights)
    network = make()
    whole = nn.Sequential(whiten, network) if whiten else network
    flops = count_flops(whole, shape)
    if saved is None:
        refuse_lone_image(whole, shape, data)
        if whiten:
            fit_whiten(whiten, data)
    device = devices.choose(config["device"], flops)
    schedule = build("scheduler", config["scheduler"])
    optimizer_for = partial(make_optimizer, config, fitted=device.with_kernel)
    optimizer_for(network)  # refuse impossible values before any training
    model = Classifier(
        network,
        plain["mean"],
        plain["std"],
        whiten=whiten,
        views=TestTimeAugmentation(**config["tta"]),
        label_smoothing=config["loss"]["label_smoothing"],
        channels_last=device.channels_last,
        make_optimizer=optimizer_for,
        factor=schedule,
        seed=config["seed"],
        plain=plain,
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Experiment(data, model, device, parameters, flops)


def make_whiten(config: Config, shape: tuple[int, int, int]) -> Whiten | None:
    """The whitening layer that the config asks for, if any, not yet fitted."""
    side = config["data"]["normalisation"].get("whiten", 0)  # the first checkpoints do not say
    if side > min(shape[1:]):
        raise UserError(f"data.normalisation.whiten={side}: larger than the images, which are {by(shape)}")
    return Whiten(shape[0], side) if side else None


def fit_whiten(whiten: Whiten, data: ImageDataModule) -> None:
    """Fit it on the first training images, as the network would see them."""
    channels, height, width = data.dataset.shape
    count = min(WHITEN_IMAGES, WHITEN_NUMBERS // (channels * whiten.side**2 * height * width) + 1)
    first = data.dataset.train_images[data.indices["train"][:count]]
    whiten.fit(Normalise(data.mean, data.std)(first))


def describe(config: Config, data: ImageDataModule) -> Config:
    """What a checkpoint carries to rebuild its model and to say what it learnt from."""
    record = data.dataset
    return {
        "format": FORMAT,
        "config": {key: value for key, value in config.items() if key != "resume"},
        "shape": list(record.shape),
        "classes": list(record.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "data": record.identity,
    }


def count_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one image, forward. Raises UserError where the network cannot take it."""
    network.eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            network(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"model: cannot take images of {by(shape)}: {str(error).splitlines()[0]}") from None
    network.train()
    return counter.get_total_flops()


def refuse_lone_image(network: nn.Module, shape: tuple[int, int, int], data: ImageDataModule) -> None:
    """Raise UserError where a training batch is one image and batch norm would have one value to work on."""
    count, batch = data.sizes["train"], data.batch_size
    lone = batch == 1 or (count % batch == 1 and not data.drop_last)
    if not lone:
        return
    try:
        copy.deepcopy(network).to("meta")(torch.empty(1, *shape, device="meta"))
    except ValueError:
        raise UserError(
            f"data.batch_size={batch}: leaves a batch of one of the {count} training images, which this"
            " network's batch norm cannot train on; use data.drop_last=true or another size"
        ) from None


class NoProfiler(PassThroughProfiler):
    """None, at less cost: Lightning opens a context of its profiler around each of forty hooks a step."""

    nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


def make_trainer(config: Config, device: devices.Device, run_dir: Path, **own: Any) -> pl.Trainer:
    """Lightning's Trainer with the config's arguments and without its boilerplate."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    arguments = dict(config["trainer"])
    arguments["profiler"] = arguments.get("profiler") or NoProfiler()
    if device.compile:
        own["callbacks"] = [Compiler(), *own.get("callbacks", [])]
    if arguments["profiler"] in PROFILERS:
        arguments["profiler"] = PROFILERS[arguments["profiler"]](dirpath=run_dir, filename="profile")
    if arguments["deterministic"]:
        # Refuses what is not reproducible, but need not fill fresh memory, which costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        return pl.Trainer(
            accelerator=device.accelerator,
            precision=device.precision,  # type: ignore[arg-type]
            default_root_dir=run_dir,
            plugins=[PlainCheckpointIO()],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            model_registry=None,  # it would upload what was learnt
            **arguments,
            **{"callbacks": [], **own},
        )
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None


def by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def refuse_larger(make: Callable[[], nn.Module], weights: Iterable[Tensor]) -> None:
    """Build the network that a stranger's config asks for without memory, before it is built with some.

    Raises UserError where it is larger than the ``weights`` beside the config.
    """
    with no_larger_than(tuple(one.shape) for one in weights), torch.device("meta"):
        make()


@contextmanager
def no_larger_than(shapes: Iterable[tuple[int, ...]]) -> Iterator[None]:
    """Within the block this thread cannot build a network of more or larger parameters than a file with
    tensors of those ``shapes`` could fill: the config of a few bytes may ask for years of building.

    Raises ValueError, at the first that is too large.
    """
    sizes = [math.prod(shape) for shape in shapes]
    largest = sum(sizes)
    most, thread = 2 * len(sizes) + 8, threading.get_ident()  # twice: some networks build more than they keep
    seen = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal seen
        if threading.get_ident() == thread and parameter is not None:
            seen += 1
            if seen > most or parameter.numel() > largest:
                raise ValueError("larger than the weights in the file")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
