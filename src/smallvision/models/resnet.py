"""ResNet-18 for small images."""

import torch
from torch import nn


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with a 3 x 3 stem of stride 1 and no first pooling (11.2 M parameters).

    N x C x H x W to N x classes; H and W at least 8. Source: K. He et al., Deep residual learning for
    image recognition, CVPR 2016; the stem is the one of its CIFAR-10 section.
    """

    def __init__(self, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        from torchvision.models import resnet18  # slow to import, and only this network needs it

        if min(size) < 8:
            raise ValueError(f"images of {size[0]} x {size[1]} are too small for this network")
        resnet = resnet18(num_classes=classes)
        self.stem = nn.Sequential(nn.Conv2d(channels, 64, 3, padding=1, bias=False), resnet.bn1, resnet.relu)
        self.stages = nn.Sequential(resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
        self.classifier = resnet.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # A mean, not adaptive pooling, whose gradient on cuda is not deterministic.
        return self.classifier(self.stages(self.stem(images)).mean((2, 3)))
