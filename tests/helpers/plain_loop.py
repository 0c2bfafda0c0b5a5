"""The tutorials' programs as they stand: a class, transforms and a loop of plain PyTorch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNet(nn.Module):
    """ "GPU and PyTorch": two convolutions and a linear layer; log probabilities come out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 3)
        self.conv2 = nn.Conv2d(10, 20, 3)
        self.fc = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.log_softmax(self.fc(torch.flatten(x, 1)), dim=1)


class NeuralNetwork(nn.Module):
    """PyTorch's quickstart; logits come out."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_relu_stack(self.flatten(x))


class ColourNet(nn.Module):
    """The exercise: a network for CIFAR-10, that of model=cifar10, written out; logits come out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.norm2 = nn.Conv2d(32, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        self.conv3, self.norm3 = nn.Conv2d(128, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        self.conv4, self.norm4 = nn.Conv2d(128, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256)
        self.conv5, self.norm5 = nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256)
        self.conv6, self.norm6 = nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        x = F.gelu(self.norm2(F.max_pool2d(self.conv2(x), 2)))
        x = x + F.gelu(self.norm3(self.conv3(x)))
        x = F.gelu(self.norm4(F.max_pool2d(self.conv4(x), 2)))
        y = F.gelu(self.norm5(self.conv5(x)))
        x = x + F.gelu(self.norm6(self.conv6(y)))
        return self.fc(x.amax((2, 3)))


def transforms(mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """ToTensor and, where there is anything to do, Normalize, of whole batches (uint8, N x C x H x W)."""
    of, by = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    plain = set(mean) == {0.0} and set(std) == {1.0}
    return lambda images: images.float().div(255) if plain else images.float().div(255).sub(of).div(by)


def train(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]], lr: float) -> list[float]:
    """The loss of each step of SGD on those batches."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    loss_of = F.nll_loss if isinstance(network, ConvNet) else F.cross_entropy
    network.train()
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
