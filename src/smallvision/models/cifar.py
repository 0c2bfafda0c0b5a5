"""CifarNet: a small residual network for photographs of about 32 x 32 pixels."""

from collections.abc import Sequence

import torch
from torch import nn


def check_halvings(size: tuple[int, int], times: int) -> None:
    """Raise ValueError where images of ``size`` (height, width) are too small to be halved so many times."""
    if min(size) < 2**times:
        raise ValueError(f"images of {size[0]} x {size[1]} cannot be halved {times} times")


def unit(before: int, after: int, pool: bool = False) -> nn.Sequential:
    """3 x 3 convolution, batch norm, GELU.

    ``pool`` halves height and width right after the convolution, so that batch norm and GELU process a
    quarter of the pixels.
    """
    layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.BatchNorm2d(after), nn.GELU())


class Residual(nn.Module):
    """``depth`` units in parallel with a shortcut; the shape stays."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(unit(width, width) for _ in range(depth)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.body(images)


class CifarNet(nn.Module):
    """Stages that each halve the image and add a residual block: N x C x H x W to N x classes.

    Stage i has ``widths[i]`` channels and a residual block of ``depths[i]`` units (0: none). The first stage
    pools immediately, so most of the arithmetic is done at 16 x 16 and below. Global max-pooling and one linear
    layer give the logits.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        widths: Sequence[int] = (32, 128, 256),
        depths: Sequence[int] = (0, 1, 2),
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"{len(widths)} widths but {len(depths)} depths")
        check_halvings(size, len(widths))
        stages: list[nn.Module] = []
        before = channels
        for width, depth in zip(widths, depths, strict=True):
            stages.append(unit(before, width, pool=True))
            if depth:
                stages.append(Residual(width, depth))
            before = width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(before, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stages(images).amax((2, 3)))
