"""The module that every format holds: raw images in, probabilities out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smallvision.config.schema import Config
from smallvision.training.layers import Normalise, TestTimeAugmentation, Whiten
from smallvision.training.predictor import Predictor


class Standalone(nn.Module):
    """uint8 images N x C x H x W in, float32 probabilities N x classes out, in float32 on the CPU.

    Everything between them is inside: normalisation, whitening, the mean of the logits over ``views``,
    softmax. ``shape``: channels, height, width of an image; ``classes``: their names in the order of the
    probabilities.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        shape: tuple[int, int, int],
        classes: list[str],
        whiten: Whiten | None = None,
        views: TestTimeAugmentation | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.normalise = Normalise(mean, std)
        self.whiten = whiten or nn.Identity()
        self.views = views or TestTimeAugmentation()
        self.shape, self.classes = shape, classes
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.views(self.normalise(images), self._logits).softmax(1)

    def _logits(self, images: Tensor) -> Tensor:
        return self.network(self.whiten(images))


def in_float32(config: Config) -> Config:
    """The same config for float32 on the CPU, whatever the network was trained on and in."""
    device = {"name": "cpu", "precision": "32", "memory_format": "contiguous", "compile": False}
    return config.updated({"device": device})


def standalone(trained: Predictor) -> Standalone:
    """The module of a network that was loaded :func:`in_float32`."""
    model = trained.model
    plain: dict[str, Any] = trained.plain
    return Standalone(
        model.network,
        plain["mean"],
        plain["std"],
        shape=trained.shape,
        classes=trained.classes,
        whiten=model.whiten if isinstance(model.whiten, Whiten) else None,
        views=model.views,
    )


def example(module: Standalone) -> Tensor:
    """Two images for an exporter to trace with: from one it would learn that there is always one."""
    return torch.zeros(2, *module.shape, dtype=torch.uint8)
