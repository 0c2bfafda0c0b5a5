"""Four small networks for beginners: logistic regression, multilayer perceptron, MnistNet and LeNet-5."""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class Linear(nn.Sequential):
    """Multinomial logistic regression: one matrix from N x C x H x W to N x classes."""

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))


class MLP(nn.Sequential):
    """Fully connected layers with ReLU between them: N x C x H x W to N x classes.

    ``hidden``: units of each hidden layer; ``dropout``: the fraction of their outputs set to 0 in training.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        hidden: Sequence[int] = (512, 512),
        dropout: float = 0.0,
    ) -> None:
        widths = [channels * size[0] * size[1], *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(widths[-1], classes))

    def plain_name(self, name: str) -> str:
        """The name of a tensor in PyTorch's quickstart: linear_relu_stack.0.weight for 1.weight."""
        layer, _, tensor = name.partition(".")
        return f"linear_relu_stack.{int(layer) - 1}.{tensor}"


def count_features(layers: nn.Module, channels: int, size: tuple[int, int]) -> int:
    """Outputs of ``layers`` per image of that size, found on the meta device, without computing any.

    Raises ValueError where the images are too small for the layers.
    """
    try:
        with torch.no_grad():
            probe = copy.deepcopy(layers).to("meta")
            shape = probe(torch.empty(1, channels, *size, device="meta")).shape
    except RuntimeError:
        shape = torch.Size([1, 0])
    if not shape[1:].numel():
        raise ValueError(f"images of {size[0]} x {size[1]} are too small for this network")
    return shape[1:].numel()


def _two_stages(channels: int, widths: Sequence[int], kernel: int, padding: int) -> nn.Sequential:
    first, second = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, kernel, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, kernel),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )


class MnistNet(nn.Module):
    """Two 3 x 3 convolutions, each with ReLU and 2 x 2 max-pooling, and one linear layer.

    N x C x H x W to N x classes. On 1 x 28 x 28 with ``widths`` 10 and 20 the linear layer is 500 to 10.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        classes: int,
        widths: Sequence[int] = (10, 20),
    ) -> None:
        super().__init__()
        self.features = _two_stages(channels, widths, kernel=3, padding=0)
        self.classifier = nn.Linear(count_features(self.features, channels, size), classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max-pooling: two 5 x 5 convolutions, then 120 and 84 units.

    N x C x H x W to N x classes; images below 32 x 32 are padded by 2, as MNIST's were. Source: Y. LeCun et
    al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        padding = 2 if min(size) < 32 else 0
        self.features = _two_stages(channels, (6, 16), kernel=5, padding=padding)
        flat = count_features(self.features, channels, size)
        self.classifier = nn.Sequential(
            nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images))
