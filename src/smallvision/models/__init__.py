"""Networks: batches become logits. They know no data set and no trainer.

Every network maps float N x C x H x W to logits N x classes. It takes ``channels``, ``size`` (height, width) and
``classes`` from the data and its other arguments from ``configs/model/``. It raises ValueError for images that
are too small for it.
"""

from smallvision.models.airbench import AirbenchNet
from smallvision.models.basic import MLP, LeNet5, Linear, MnistNet
from smallvision.models.cifar import CifarNet
from smallvision.models.pretrained import TimmNetwork, TorchvisionNetwork
from smallvision.models.resnet import ResNet18

__all__ = [
    "MLP", "AirbenchNet", "CifarNet", "LeNet5", "Linear", "MnistNet", "ResNet18", "TimmNetwork", "TorchvisionNetwork",
]  # fmt: skip
