"""Augmentation of whole batches where they lie: uint8 in, uint8 out, no loop over images."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is done to each training image, each by its own draw.

    ``flip``: left-right with probability 1/2. ``shift``: moved by up to that many pixels in each
    direction, the border reflected. ``cutout``: a square of that many pixels is set to ``fill``, its
    centre anywhere in the image (T. DeVries and G. Taylor, arXiv:1708.04552). 0 or False turns one off.
    """

    flip: bool = False
    shift: int = 0
    cutout: int = 0
    fill: tuple[int, ...] = (0,)

    def __bool__(self) -> bool:
        return bool(self.flip or self.shift or self.cutout)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """``images``: uint8, N x C x H x W; ``draws``: N x 5 uniform in [0, 1), see :meth:`draw`."""
        if self.flip or self.shift:
            images = self._move(images, draws[:, 0], draws[:, 1:3])
        if self.cutout:
            images = self._cut(images, draws[:, 3:5])
        return images

    @staticmethod
    def draw(count: int, generator: torch.Generator) -> Tensor:
        """One row per image, whatever is turned on: switching one choice leaves the others' draws."""
        return torch.rand((count, 5), generator=generator, device=generator.device)

    def _move(self, images: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
        """Flip and shift in one gather: each target pixel looks up its source row and column."""
        count, channels, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(count, height)
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.shift:
            by = (shift * (2 * self.shift + 1)).long() - self.shift
            rows = _reflect(rows + by[:, :1], height)
            columns = _reflect(columns + by[:, 1:], width)
        if self.flip:
            columns = torch.where((flip < 0.5)[:, None], width - 1 - columns, columns)
        source = (rows[:, :, None] * width + columns[:, None, :]).view(count, 1, height * width)
        moved = images.flatten(2).gather(2, source.expand(count, channels, height * width))
        return moved.view_as(images)

    def _cut(self, images: Tensor, centre: Tensor) -> Tensor:
        height, width = images.shape[2:]
        half = self.cutout / 2
        centre = centre * torch.tensor([height, width], device=images.device)
        rows = torch.arange(height, device=images.device) + 0.5
        columns = torch.arange(width, device=images.device) + 0.5
        hole = ((rows - centre[:, :1]).abs() <= half)[:, :, None]
        hole = hole & ((columns - centre[:, 1:]).abs() <= half)[:, None, :]
        fill = torch.tensor(self.fill, dtype=torch.uint8, device=images.device).view(1, -1, 1, 1)
        return torch.where(hole[:, None], fill, images)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices that left ``range(size)`` back into it, without repeating the border pixel."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.abs() % (2 * size - 2)
    return torch.where(index < size, index, 2 * size - 2 - index)
