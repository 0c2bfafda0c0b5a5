"""What happens to images before the network: normalisation, whitening, and views for the test."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_VARIANCE = 5e-4  # below it, a direction is not blown up to 1: it is mostly noise


class Normalise(nn.Module):
    """uint8 images in [0, 255] to floats of mean 0 and deviation 1 per channel, in the wanted layout."""

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels_last: bool = False) -> None:
        super().__init__()
        deviation = torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("offset", -torch.tensor(mean).view(1, -1, 1, 1) / deviation, persistent=False)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor) -> Tensor:
        floats = images.to(self.scale.dtype, memory_format=self.layout)
        return torch.addcmul(self.offset, floats, self.scale)


class Whiten(nn.Module):
    """A fixed first layer: each patch of ``side`` x ``side`` pixels along the principal directions of such
    patches, each direction brought to variance 1, and GELU of that and of its negative.

    N x C x H x W to N x 2 C side^2 x (H - side + 1) x (W - side + 1). Source: K. Jordan, arXiv:2404.00498,
    section 3.2, after tysam-code/hlb-CIFAR10.
    """

    kernel: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("kernel", torch.zeros(2 * channels * side**2, channels, side, side))

    @torch.no_grad()
    def init_whiten(self, images: Tensor) -> None:
        """Learn the directions from ``images``, normalised floats."""
        channels = images.shape[1]
        columns = F.unfold(images, self.side).transpose(1, 2).reshape(-1, channels * self.side**2).double()
        values, vectors = torch.linalg.eigh(columns.T @ columns / len(columns))
        directions = (vectors / (values.clamp_min(0) + SMALLEST_VARIANCE).sqrt()).T.reshape(
            -1, channels, self.side, self.side
        )
        self.kernel.copy_(torch.cat([directions, -directions]))

    def forward(self, images: Tensor) -> Tensor:
        return F.gelu(F.conv2d(images, self.kernel))


class TestTimeAugmentation:
    """Test-time augmentation: the logits of an image as the weighted mean over views of it.

    ``flip``: each view and its mirror image. ``shift``: half of the weight stays in the middle, a quarter
    each goes to the image moved up-left and down-right by that many pixels, the border reflected. Source: K.
    Jordan, arXiv:2404.00498, section 3.5.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, flip: bool = False, shift: int = 0) -> None:
        self.flip, self.shift = flip, shift

    def __len__(self) -> int:
        """Views of each image."""
        return (2 if self.flip else 1) * (3 if self.shift else 1)

    def __call__(self, images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """``images``: floats, N x C x H x W; gives ``network``'s logits, N x classes."""
        if not self.shift:
            return self._mirrored(images, network)
        by, (height, width) = self.shift, images.shape[2:]
        padded = F.pad(images, (by,) * 4, mode="reflect")
        moved = [self._mirrored(padded[:, :, at : at + height, at : at + width], network) for at in (0, 2 * by)]
        return self._mirrored(images, network) / 2 + (moved[0] + moved[1]) / 4

    def _mirrored(self, images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        logits = network(images).float()
        return (logits + network(images.flip(3)).float()) / 2 if self.flip else logits
