"""From a config to the things that train: data, model, device and Trainer."""

import copy
import inspect
import json
import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.nn.parameter import UninitializedParameter

from smallvision.config.schema import Config, Loss
from smallvision.config.targets import import_used, instantiate
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.rng import seeded
from smallvision.core.run_dir import RunDir
from smallvision.data.arrays import as_dataset
from smallvision.data.dataset import ImageDataset
from smallvision.data.module import ImageDataModule
from smallvision.models.pretrained import PretrainedNetwork
from smallvision.training import device as devices
from smallvision.training.batch_norm import SynchroniseBatchNorm
from smallvision.training.callbacks import AfterEpoch
from smallvision.training.callbacks.checkpointing import Checkpointing
from smallvision.training.callbacks.compile import Compiler
from smallvision.training.callbacks.epoch_timer import EpochTimer
from smallvision.training.callbacks.keep_probabilities import KeepProbabilities
from smallvision.training.callbacks.metrics_csv import MetricsCSV
from smallvision.training.checkpoint import FORMAT, Checkpoint, PlainCheckpointIO, load_weights
from smallvision.training.classifier import Classifier
from smallvision.training.model_spec import ModelSpec, make_within, shape_str
from smallvision.training.optimizers import make_optimizer
from smallvision.training.predictor import Layer, Normalise, Predictor, Whiten
from smallvision.training.processes import Environment, Group
from smallvision.training.schedules import make_scheduler
from smallvision.training.state_dict import load_pretrained

# That many images give the directions of patches well enough; all numbers of all patches are in memory.
WHITEN_IMAGES, WHITEN_NUMBERS = 5_000, 100_000_000
NEEDED = (EpochTimer, MetricsCSV, Checkpointing, KeepProbabilities)  # results.json is made from these
STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward",
              "on_after_backward", "on_before_optimizer_step")  # fmt: skip
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


@dataclass
class Experiment:
    """Everything of one run that torch computes with."""

    data: ImageDataModule
    model: pl.LightningModule
    device: devices.Device
    parameters: int
    layers: list[Layer]

    @property
    def has_test(self) -> bool:
        """A LightningModule of the user's own need not have one."""
        return is_overridden("test_step", self.model)

    @property
    def predictor(self) -> Predictor | None:
        """None for a LightningModule of the user's own."""
        return self.model.predictor if isinstance(self.model, Classifier) else None

    @property
    def flops(self) -> int:
        """Of one image, forward."""
        return sum(layer.flops for layer in self.layers)


def make_data(config: Config) -> ImageDataModule:
    """The data module of that config; whatever is wrong with the data is refused here."""
    import_used(config)
    data = config.data
    return ImageDataModule(
        load_images(json.dumps(data.without_own_keys()), config.data_dir),
        seed=config.seed,
        val_size=data.val_size,
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        drop_last=data.drop_last,
        shuffle=data.shuffle,
        **data.augmentation.to_dict(),
        small_size=data.progressive_resizing.size,
        small_epochs=data.progressive_resizing.epochs,
        mean=data.normalisation.mean,
        std=data.normalisation.std,
    )


def balanced_weights(data: ImageDataModule) -> torch.Tensor:
    """Of each class, with which all classes of the training images have the same weight in the loss."""
    labels = data.dataset.train_labels[data.indices["train"]]
    counts = torch.bincount(labels, minlength=len(data.dataset.classes))
    return len(labels) / (len(counts) * counts.clamp(min=1)).float()


def make_losses(config: Loss, weights: torch.Tensor | None = None) -> tuple[nn.Module, nn.Module]:
    """Those of training, and of validation and test: one of torch's has neither smoothing nor weights there.

    ``weights``: of each class. Raises UserError where the loss takes none.
    """
    arguments = config.without_own_keys()
    runtime: dict[str, Any] = {} if weights is None else {"weight": weights}
    loss: nn.Module = instantiate("loss", arguments, **runtime)
    if weights is not None and "weight" not in inspect.signature(type(loss)).parameters:
        raise UserError(f"loss.class_weights=balanced: {config.target} takes no argument weight")
    if not config.target.startswith("torch."):
        return loss, loss
    arguments.pop("label_smoothing", None)
    return loss, instantiate("loss", arguments)


@lru_cache(maxsize=1)
def load_images(source: str, data_dir: str) -> ImageDataset:
    """The images of that source, a section of ``data`` in JSON; a worker's next trial finds them here."""
    section = json.loads(source)
    loaded = instantiate("data", section, data_dir=data_dir)
    return loaded if isinstance(loaded, ImageDataset) else as_dataset(loaded, section["name"], section["_target_"])


def make_experiment(
    config: Config, data: ImageDataModule, checkpoint: Checkpoint | None = None, pretrained: bool = False
) -> Experiment:
    """The model on its device: that of ``checkpoint`` with its weights, else the config's with initial ones.

    ``pretrained``: those that ``model.weights`` names, where it names any.
    """
    dataset = data.dataset
    refuse_no_batches(config, data)
    if checkpoint is not None:
        spec = checkpoint.spec
        if dataset.shape != spec.shape or len(dataset.classes) != len(spec.classes):
            raise UserError(
                f"data={config.data.name}: images of {shape_str(dataset.shape)} in {len(dataset.classes)}"
                f" classes; the checkpoint is for {shape_str(spec.shape)} in {len(spec.classes)}"
            )
        old, now = ({name: at for at, name in enumerate(classes)} for classes in (spec.classes, dataset.classes))
        for name, at in now.items():
            if old.get(name, at) != at:
                raise UserError(f"data={config.data.name}: {name} is class {at}; in the checkpoint it is {old[name]}")
    if config.module.is_own:
        module = make_module(config, dataset, checkpoint)
        device = replace(devices.choose(config.device, flops=0), compile=False, channels_last=False)
        return Experiment(data, module, device, sum(parameter.numel() for parameter in module.parameters()), [])
    if checkpoint is None:
        spec = ModelSpec(
            model=config.model.to_dict(),
            shape=dataset.shape,
            classes=list(dataset.classes),
            mean=list(data.mean),
            std=list(data.std),
            whiten=config.data.normalisation.whiten,
            tta=config.tta.to_dict(),
            seed=config.seed,
        )
        predictor = Predictor(spec, spec.make_network())
        if pretrained and isinstance(predictor.network, PretrainedNetwork) and predictor.network.weights is not None:
            load_pretrained(predictor.network)
        if spec.whiten:
            init_whiten(predictor, data)
    else:
        predictor = Predictor.with_weights(checkpoint, config)
    layers = predictor.layers()
    if data.small_size is not None:
        predictor.layers((spec.shape[0], *data.small_size))  # refused here, not within the first step
    if checkpoint is None and config.task != "test":
        refuse_lone_image(predictor, data)
    device = devices.choose(config.device, sum(layer.flops for layer in layers))
    optimizer_for = partial(make_optimizer, config, device=device)
    make_scheduler(config.scheduler, optimizer_for(predictor.network), 100)  # refuse impossible values now
    weights = balanced_weights(data) if config.loss.class_weights == "balanced" else None
    model = Classifier(
        predictor.use(device),
        optimizer_for,
        partial(make_scheduler, config.scheduler),
        *make_losses(config.loss, weights),
    )
    leave_out_unused_hooks(model, pl.LightningModule)
    return Experiment(data, model, device, predictor.parameter_count, layers)


def make_module(config: Config, dataset: ImageDataset, checkpoint: Checkpoint | None) -> pl.LightningModule:
    """The LightningModule of the user's own, with the weights of ``checkpoint`` or initial ones."""
    channels, *size = dataset.shape
    arguments = config.module.without_own_keys()
    make = partial(instantiate, "module", arguments, channels=channels, size=tuple(size), classes=len(dataset.classes))
    with seeded(config.seed, "initialisation"):
        if checkpoint is None:
            module: pl.LightningModule = make()
        else:
            module = make_within((weight.shape for weight in checkpoint.module_weights.values()), make)
    if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters()):
        raise UserError(f"module={config.module.name}: has lazy layers, which no checkpoint fits; give their sizes")
    if checkpoint is not None:
        load_module(module, checkpoint)
    return module


def load_module(module: pl.LightningModule, checkpoint: Checkpoint) -> None:
    """Give a LightningModule its part of a checkpoint. Raises UserError where it does not fit."""
    module.on_load_checkpoint(checkpoint.raw)
    load_weights(module, checkpoint.module_weights, checkpoint.path)


def init_whiten(predictor: Predictor, data: ImageDataModule) -> None:
    """Learn the whitening of patches from the first training images, as the network would see them."""
    channels, height, width = data.dataset.shape
    count = min(WHITEN_IMAGES, WHITEN_NUMBERS // (channels * predictor.spec.whiten**2 * height * width) + 1)
    first = data.dataset.train_images[data.indices["train"][:count]]
    assert isinstance(predictor.whiten, Whiten)
    predictor.whiten.init_whiten(Normalise(data.mean, data.std)(first))


def refuse_no_batches(config: Config, data: ImageDataModule) -> None:
    """Raise UserError where a fraction of the batches of a part is less than one batch."""
    for part, count in data.batches.items():
        used = part == "test" if config.task == "test" else part != "test" or config.test
        limit = getattr(config.trainer, f"limit_{part}_batches")
        if used and count and isinstance(limit, float) and count * limit < 1:
            raise UserError(
                f"trainer.limit_{part}_batches={limit}: less than one batch of {count}; type a number of batches, or a"
                f" fraction of at least 1/{count}"
            )


def refuse_lone_image(predictor: Predictor, data: ImageDataModule) -> None:
    """Raise UserError where a training batch is one image and batch norm would have one value to work on."""
    count, batch = data.sizes["train"], data.batch_size
    if batch > 1 and (count % batch != 1 or data.drop_last):
        return
    try:
        copy.deepcopy(predictor).to("meta").train().classify(torch.empty(1, *data.dataset.shape, device="meta"))
    except ValueError:
        raise UserError(
            f"data.batch_size={batch}: leaves a batch of one of the {count} training images, which this"
            " network's batch norm cannot train on; use data.drop_last=true or another size"
        ) from None


def make_callbacks(
    config: Config, experiment: Experiment, run_dir: RunDir, console: Console, checkpoint: Checkpoint | None
) -> list[Callback]:
    """The callbacks of a fit: those of ``config.callbacks`` in its order, then early stopping where it is set.

    The project's own also get, by the names of their parameters, the keys that have a place of their own in the
    config and what only the program knows. Raises UserError where one is missing that results.json is made from.
    """
    data = experiment.data
    runtime = {
        "config": config,
        "seed": config.seed,
        "max_epochs": config.trainer.max_epochs,
        "log_every_n_batches": config.log_every_n_batches,
        **config.checkpointing.to_dict(),
        "monitor": config.module.monitor,
        "mode": config.module.mode,
        **({"metrics": None} if config.module.is_own else {}),
        "run_dir": run_dir,
        "console": console,
        "checkpoint": checkpoint,
        "contents": {  # of every checkpoint, to rebuild its model and to say what it learned from
            "format": FORMAT,
            "config": config.without("resume", "rerun"),
            "shape": list(data.dataset.shape),
            "classes": list(data.dataset.classes),
            "mean": list(data.mean),
            "std": list(data.std),
            "data": data.dataset.identity,
        },
    }
    callbacks: list[Callback] = []
    for name, section in config.callbacks.items():
        if section is not None:
            known = runtime if str(section["_target_"]).startswith("smallvision.") else {}
            callbacks.append(instantiate("callbacks", section, key=f"callbacks.{name}", **known))
    for kind in NEEDED:
        if not any(isinstance(callback, kind) for callback in callbacks):
            raise UserError(f"callbacks: results.json needs {kind.__module__}.{kind.__name__}; leave it in")
    stopping = config.early_stopping
    if stopping.patience is not None:
        monitor, mode = config.module.monitor or "", config.module.mode or "max"
        callbacks.append(EarlyStopping(monitor, stopping.min_delta, stopping.patience, mode=mode))
    return callbacks


def make_trainer(
    config: Config,
    device: devices.Device,
    run_dir: Path,
    callbacks: list[Callback],
    logger: Logger | None = None,
    checkpoint: Checkpoint | None = None,
    group: Group | None = None,
) -> pl.Trainer:
    """Lightning's Trainer with the config's arguments and without its boilerplate."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
    arguments = config.trainer.to_dict()
    profiler, timeout = arguments.pop("profiler"), timedelta(seconds=arguments.pop("timeout"))
    plugins: list[Precision | ClusterEnvironment | CheckpointIO | LayerSync] = [
        PlainCheckpointIO(checkpoint, verify=config.use is not None)
    ]
    if group is not None and group.world_size > 1:
        plugins.append(Environment(group))
        arguments["strategy"] = DDPStrategy(timeout=timeout, find_unused_parameters=config.module.is_own)
        if device.kind == "cuda":
            arguments.setdefault("sync_batchnorm", True)
        elif arguments.pop("sync_batchnorm", True):  # torch's own needs GPUs
            plugins.append(SynchroniseBatchNorm())
        profiler = profiler if group.rank == 0 else None
    if arguments["deterministic"]:
        # Refuses what is not reproducible, but need not fill fresh memory, which costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for callback in callbacks:
        leave_out_unused_hooks(callback, Callback)
    try:
        return pl.Trainer(
            accelerator=device.accelerator,
            precision=device.precision,  # type: ignore[arg-type]
            default_root_dir=run_dir,
            callbacks=[Compiler(), *callbacks] if device.compile else callbacks,
            logger=logger or False,
            plugins=plugins,
            profiler=PROFILERS[profiler](dirpath=run_dir, filename="profile") if profiler else NoProfiler(),
            enable_checkpointing=any(isinstance(callback, AfterEpoch) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            model_registry=None,  # it would upload checkpoints
            **arguments,
        )
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None


def leave_out_unused_hooks(owner: Callback | pl.LightningModule, base: type) -> None:
    """Set the hooks of each step that ``owner`` does not define to None, which Lightning does not call: sixty calls a
    step of functions that do nothing.
    """
    for hook in STEP_HOOKS:
        if getattr(type(owner), hook) is getattr(base, hook) and hook not in vars(owner):
            setattr(owner, hook, None)


class NoProfiler(PassThroughProfiler):
    """None, at less cost: Lightning opens a context of its profiler around each of forty hooks a step."""

    nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing
