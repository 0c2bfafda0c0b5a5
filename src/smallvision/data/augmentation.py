"""Augmentation of a batch at once, on its own device: uint8 in, uint8 out, no loop over images."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, drawn for each image by itself; 0 or False turns one off.

    ``flip``: left-right with probability 1/2; "alternating": in every other epoch, a random half of the images
    starting with it (K. Jordan, arXiv:2404.00498, section 3.6). ``shift``: by up to that many pixels in each
    direction, the border reflected. ``rotate``: by up to that many degrees either way, and ``scale``: up to
    that fraction larger or smaller, about the center, the border repeated. ``cutout``: a square of that many
    pixels, centered anywhere in the image, is set to ``fill``, a level a channel (T. DeVries and G. Taylor,
    arXiv:1708.04552).
    """

    flip: bool | Literal["alternating"] = False
    shift: int = 0
    cutout: int = 0
    rotate: float = 0.0
    scale: float = 0.0
    fill: tuple[int, ...] = (0,)

    def __bool__(self) -> bool:
        return bool(self.flip or self.shift or self.cutout or self.rotate or self.scale)

    def __call__(self, images: Tensor, uniforms: Tensor) -> Tensor:
        """``images``: N x C x H x W, uint8 or floats; ``uniforms``: N x 7 of :meth:`draw`, in [0, 1)."""
        if (self.rotate or self.scale) and len(images):
            images = self._rotate_and_scale(images, uniforms[:, 5], uniforms[:, 6])
        if self.flip or self.shift:
            images = self._flip_and_shift(images, uniforms[:, 0], uniforms[:, 1:3])
        if self.cutout:
            images = self._cutout(images, uniforms[:, 3:5])
        return images

    @staticmethod
    def draw(count: int, generator: torch.Generator) -> Tensor:
        """A row of uniforms per image, whatever is turned on: turning one change on leaves the others' as is."""
        return torch.cat([torch.rand((count, n), generator=generator, device=generator.device) for n in (5, 2)], 1)

    def _rotate_and_scale(self, images: Tensor, angle: Tensor, size: Tensor) -> Tensor:
        """Each target pixel is interpolated between the four around its source."""
        angle = (2 * angle - 1) * math.radians(self.rotate)
        zoom = 1 / (1 + (2 * size - 1) * self.scale)
        cosine, sine, zero = angle.cos() * zoom, angle.sin() * zoom, torch.zeros_like(angle)
        height, width = images.shape[2:]
        aspect = height / width  # both sides are 2 long in the grid's coordinates
        rows = [cosine, -sine * aspect, zero, sine / aspect, cosine, zero]
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
        sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return sampled.round_().to(images.dtype) if images.dtype == torch.uint8 else sampled

    def _flip_and_shift(self, images: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
        """In one gather: each target pixel looks up its source row and column."""
        count, channels, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(count, height)
        columns = torch.arange(width, device=images.device).expand(count, width)
        if self.shift:
            offset = (shift * (2 * self.shift + 1)).long() - self.shift
            rows = _reflect(rows + offset[:, :1], height)
            columns = _reflect(columns + offset[:, 1:], width)
        if self.flip:
            columns = torch.where((flip < 0.5)[:, None], width - 1 - columns, columns)
        source = (rows[:, :, None] * width + columns[:, None, :]).view(count, height * width, 1)
        pixels = images.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        moved = pixels.gather(1, source.expand_as(pixels))
        return moved.view(count, height, width, channels).permute(0, 3, 1, 2)

    def _cutout(self, images: Tensor, center: Tensor) -> Tensor:
        height, width = images.shape[2:]
        half = self.cutout / 2
        center = center * torch.tensor([height, width], device=images.device)
        rows = torch.arange(height, device=images.device) + 0.5
        columns = torch.arange(width, device=images.device) + 0.5
        inside = ((rows - center[:, :1]).abs() <= half)[:, :, None]
        inside = inside & ((columns - center[:, 1:]).abs() <= half)[:, None, :]
        fill = torch.tensor(self.fill, dtype=torch.uint8, device=images.device).view(1, -1, 1, 1)
        return torch.where(inside[:, None], fill, images)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Mirror indices outside ``range(size)`` back into it, without repeating the border pixel."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.abs() % (2 * size - 2)
    return torch.where(index < size, index, 2 * size - 2 - index)
