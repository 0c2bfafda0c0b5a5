"""AirbenchNet: the network of the fastest known training to 94 % on CIFAR-10."""

from collections.abc import Sequence

import torch
from torch import nn

from smallvision.models.cifar import check_halvings


class Convolution(nn.Conv2d):
    """3 x 3, without bias; at first its first outputs are its inputs, unchanged (dirac initialisation)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding=1, bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.dirac_(self.weight.data[: self.in_channels])


class Norm(nn.BatchNorm2d):
    """Batch norm with a learnt shift and no learnt scale; its running statistics adapt fast, for short runs."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


class AirbenchNet(nn.Module):
    """Three stages of two 3 x 3 convolutions, each with batch norm and GELU: N x C x H x W to N x classes.

    The first convolution of a stage is followed by 2 x 2 max-pooling. Global max-pooling and one linear layer
    without bias, whose weights start small (standard deviation 1 / width), give the logits. Meant for
    ``data.normalisation.whiten=2`` and ``optimizer=muon``.

    Source: K. Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, arXiv:2404.00498; the form without
    biases and norm scales is that of airbench94_muon.py in https://github.com/KellerJordan/cifar10-airbench.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        widths: Sequence[int] = (64, 256, 256),
    ) -> None:
        super().__init__()
        check_halvings(size, len(widths))
        stages: list[nn.Module] = []
        for before, after in zip((channels, *widths[:-1]), widths, strict=True):
            stages += [Convolution(before, after), nn.MaxPool2d(2), Norm(after), nn.GELU()]
            stages += [Convolution(after, after), Norm(after), nn.GELU()]
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(widths[-1], classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=1 / widths[-1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.stages(images).amax((2, 3)))
