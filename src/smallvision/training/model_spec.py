"""What rebuilds a network around its weights: the part of a config, and of a checkpoint, that its form depends on."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from smallvision.config.targets import instantiate
from smallvision.core.errors import UserError
from smallvision.core.rng import seeded

Shape = tuple[int, int, int]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ModelSpec:
    """The form of a model. Its weights are all that is missing.

    ``model``: the config's section of that name, ``_target_`` and its arguments; ``shape``: channels, height and
    width of an image; ``mean`` and ``std``: one number per channel, as fractions of 255; ``whiten``: the side of the
    patches that are whitened, 0 for no such layer; ``tta``: the arguments of test-time augmentation; ``seed``: names
    the random stream of the initial weights.

    Raises UserError where the shape is too small for ``whiten`` or ``tta``.
    """

    model: dict[str, object]
    shape: Shape
    classes: list[str]
    mean: list[float]
    std: list[float]
    whiten: int = 0
    tta: dict[str, int] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        side, shift = min(self.shape[1:]), self.tta.get("shift", 0)
        if self.whiten > side:
            raise UserError(
                f"data.normalisation.whiten={self.whiten}: larger than the images, which are {shape_str(self.shape)}"
            )
        if shift >= side:
            raise UserError(f"tta.shift={shift}: must be below the images' side, of {shape_str(self.shape)}")

    @property
    def network_shape(self) -> Shape:
        """Channels, height and width of what the network takes: images, whitened where the spec says so."""
        channels, height, width = self.shape
        cut = self.whiten - 1
        return (2 * channels * self.whiten**2, height - cut, width - cut) if self.whiten else self.shape

    def make_network(self) -> nn.Module:
        """The network with initial weights. Raises UserError where there is no such network."""
        channels, height, width = self.network_shape
        with seeded(self.seed, "initialisation"):
            network: nn.Module = instantiate(
                "model",
                self.model,
                channels=channels,
                size=(height, width),
                classes=len(self.classes),
                data_mean=self.mean,
                data_std=self.std,
            )
        return network

    def make_network_within(self, shapes: Iterable[tuple[int, ...]]) -> nn.Module:
        """As :meth:`make_network` for a spec that came out of a file: it is first built without memory.

        Raises UserError where the network is larger than the file's own tensors, of those ``shapes``.
        """
        return make_within(shapes, self.make_network)


def make_within(shapes: Iterable[tuple[int, ...]], make: Callable[[], M]) -> M:
    """What ``make`` builds, first without memory where it can be. Raises UserError where it is larger than a file of
    tensors of those ``shapes``.
    """
    shapes = [*shapes]
    try:
        with no_larger_than(shapes), torch.device("meta"):
            make()
    except UserError as error:
        if "meta tensors" not in str(error):  # their numbers, which some constructors look at
            raise
    with no_larger_than(shapes):
        return make()


def shape_str(shape: tuple[int, ...]) -> str:
    """``"3x32x32"``."""
    return "x".join(map(str, shape))


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
