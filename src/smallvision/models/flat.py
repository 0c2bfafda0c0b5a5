"""Networks that flatten the image: logistic regression and the multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

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
