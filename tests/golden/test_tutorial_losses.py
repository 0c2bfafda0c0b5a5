"""A tutorial's experiment learns what the tutorial's own loop learns, step by step.

The plain loop (:mod:`plain_loop`) is fed with the same initial weights, by way of model.pt, and with our
order of images. Handed the very pixels that our network sees, it gives our losses to the last bit, under the
settings of EXACT. With the tutorial's own transforms it agrees as far as float32 does: (x / 255 - mean) / std
rounds three times, ours, x times a number plus a number, twice.

tests/golden/tutorial_*.yaml keep our losses, as in test_golden.py.
"""

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers import plain_loop
from helpers.golden import Losses as Recorded
from helpers.golden import assert_recorded
from lightning.pytorch.callbacks import Callback

from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config
from smallvision.training import state_dict as bare
from smallvision.training.factory import Experiment, make_data, make_experiment, make_trainer

# What makes the arithmetic the same. Fused SGD gives the same bits here, too, but need not elsewhere.
EXACT = ("device=cpu", "device.threads=1", "device.memory_format=contiguous", "optimizer.fused=false")
HEADER = (
    "# Training losses, step by step, of experiment={name} under tests/golden/test_tutorial_losses.py,\n"
    "# with " + " ".join(EXACT) + ";\n"
    "# the tutorial's plain loop gives the same bits.\n"
)
TUTORIALS: dict[str, tuple[type, int, int, int]] = {  # and size, channels and steps
    "tutorial_mnist": (plain_loop.ConvNet, 28, 1, 30),
    "tutorial_fashion": (plain_loop.NeuralNetwork, 28, 1, 16),
    "tutorial_cifar10": (plain_loop.ColourNet, 32, 3, 6),
}
# Steps that agree in spite of a rounding; all, unless given. Batch norm and the largest value of a channel make of one
# rounding another network, after a number of steps that depends on the machine.
AGREE = {"tutorial_cifar10": 1}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """What a Trainer and our device set for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


class Losses(Callback):
    """Each step's, in full."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(outputs["loss"].item())


def ours(name: str, steps: int, folder: Path, *typed: str) -> tuple[Experiment, list[float], list[Any]]:
    """The setup of a run of that experiment, its losses, and its batches (uint8 images, labels).

    ``folder``/model.pt gets the weights that it begins with.
    """
    typed = (f"experiment={name}", *typed, f"trainer.max_steps={steps}", "trainer.limit_val_batches=1")
    config = resolve_config(compose(list(typed)), list(typed))
    setup = make_experiment(config, make_data(config))
    weights = {f"network.{key}": one for key, one in setup.model.predictor.network.state_dict().items()}
    bare.write(weights, setup.model.predictor.network, folder / "model.pt")
    loader = setup.data.train_dataloader()
    batches = [batch for batch, _ in zip(chain(loader, loader), range(steps), strict=False)]
    losses = Losses()
    trainer = make_trainer(config, setup.device, folder, [losses])
    trainer.fit(setup.model, datamodule=setup.data)
    return setup, losses.values, batches


def on_shapes(name: str, folder: Path, *typed: str) -> tuple[Experiment, list[float], list[Any]]:
    """Two epochs, or their beginning, on images drawn here, in the form and numbers of the real ones."""
    _, size, channels, steps = TUTORIALS[name]
    numbers = {1: ("[0.1307]", "[0.3081]"), 3: ("[0.4914,0.4822,0.4465]", "[0.247,0.2435,0.2616]")}
    if name == "tutorial_fashion":
        numbers[1] = ("[0.0]", "[1.0]")
    mean, std = numbers[channels]
    images = ["data=shapes", f"data.size={size}", f"data.channels={channels}", "data.images=560"]
    images += ["data.val_size=80", "data.test_images=0", "data.seed=1"]
    return ours(
        name,
        steps,
        folder,
        *images,
        f"data.normalisation.mean={mean}",
        f"data.normalisation.std={std}",
        *typed,
    )


def plain(name: str, setup: Experiment, batches: list[Any], folder: Path, pixels: Any) -> list[float]:
    """The tutorial's loop from the same weights, over the same images through ``pixels``."""
    network = TUTORIALS[name][0]()
    saved = torch.load(folder / "model.pt", weights_only=True)
    if name == "tutorial_fashion":
        network.load_state_dict(saved)
    else:  # its layers have other names there
        network.load_state_dict(dict(zip(network.state_dict(), saved.values(), strict=True)))
    lr = setup.model.configure_optimizers()["optimizer"].param_groups[0]["initial_lr"]
    return plain_loop.train(network, [(pixels(images), labels) for images, labels in batches], lr)


@pytest.fixture(scope="module", params=TUTORIALS)
def exact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Experiment, list[float], list[Any], Path]:
    """A tutorial's name, what :func:`on_shapes` gives of it under the settings of EXACT, and its folder."""
    folder = tmp_path_factory.mktemp("exact")
    return request.param, *on_shapes(request.param, folder, *EXACT), folder


def test_an_experiment_s_losses_are_those_of_the_tutorial_s_loop_to_the_last_bit(exact):
    name, setup, losses, batches, tmp_path = exact
    assert losses == plain(name, setup, batches, tmp_path, setup.model.predictor.normalise.cpu())
    assert len(losses) == TUTORIALS[name][3]


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_losses_are_the_recorded_ones(name, tmp_path):
    def losses(precision: str) -> Recorded:
        return {"train/loss": on_shapes(name, tmp_path, *EXACT, f"device.precision={precision}")[1]}

    assert_recorded(Path(__file__).with_name(f"{name}.yaml"), losses, HEADER.format(name=name))


def test_with_the_tutorial_s_own_transforms_they_agree_as_far_as_float32_does(exact):
    name, setup, losses, batches, tmp_path = exact
    own, normalise = plain_loop.transforms(setup.data.mean, setup.data.std), setup.model.predictor.normalise.cpu()
    for images, _ in batches:
        torch.testing.assert_close(own(images), normalise(images), rtol=0, atol=1e-6)
    expected = plain(name, setup, batches, tmp_path, own)
    assert losses[: AGREE.get(name)] == pytest.approx(expected[: AGREE.get(name)], rel=1e-6)


@pytest.mark.parametrize("name", TUTORIALS)
def test_with_the_usual_settings_they_agree_as_well(name, tmp_path):
    setup, losses, batches = on_shapes(name, tmp_path, "device=cpu", "device.threads=1")
    own = plain_loop.transforms(setup.data.mean, setup.data.std)
    expected = plain(name, setup, batches, tmp_path, own)
    assert losses[: AGREE.get(name)] == pytest.approx(expected[: AGREE.get(name)], rel=1e-6)


@pytest.mark.real_data
@pytest.mark.skipif("SMALLVISION_DATA" not in os.environ, reason="the real images are elsewhere")
@pytest.mark.parametrize("name", ["tutorial_mnist", "tutorial_fashion"])
def test_it_is_so_on_the_real_images_too(name, tmp_path):
    setup, losses, batches = ours(name, 100, tmp_path, *EXACT, "data.offline=error")
    assert losses == plain(name, setup, batches, tmp_path, setup.model.predictor.normalise.cpu())
    own = plain_loop.transforms(setup.data.mean, setup.data.std)
    assert losses == pytest.approx(plain(name, setup, batches, tmp_path, own), rel=1e-5)
