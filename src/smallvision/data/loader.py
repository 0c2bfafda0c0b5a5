"""Batches by index from images that lie on the training device, augmented there: no workers, no loop over images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smallvision.core.rng import stream
from smallvision.data.memory_map import find_map

Batch = tuple[Tensor, Tensor]


class BatchLoader:
    """An epoch of batches ``(images uint8 N x C x H x W, labels int64 N)``.

    ``indices`` selects the images, in order. With ``shuffle`` each epoch has an order of its own, from the
    stream (seed, "order", epoch); each batch is augmented from the stream (seed, "augmentation", epoch, batch).
    So batch k of epoch e is the same in a run from the start, in a resumed one, and on any number of processes.

    ``batch_size`` counts the images of one optimizer step over all processes; process ``rank`` of
    ``world_size`` takes every ``world_size``-th image of each batch. In ``training``, which ``shuffle``
    implies, every process gets as many: the remainder of the last batch is dropped.

    In the first ``small_epochs`` epochs images are resized to ``small_size`` (height, width), after they are augmented:
    progressive resizing (J. Howard, in fast.ai's entry to DAWNBench, 2018).

    The state is the position of the next batch, ``epoch`` and ``batch``. Only a training loader goes on from
    there; any other starts at its first batch.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        training: bool = False,
        shuffle: bool = False,
        drop_last: bool = False,
        augmentation: "Augmentation | None" = None,
        small_size: tuple[int, int] | None = None,
        small_epochs: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.labels, self.indices = images, labels, indices
        self.batch_size, self.seed = batch_size, seed
        self.training, self.shuffle, self.augmentation = training or shuffle, shuffle, augmentation
        self.small_size, self.small_epochs = small_size, small_epochs
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.epoch = self.batch = 0
        self.map = find_map(images.data_ptr()) if images.device.type == "cpu" else None
        if augmentation and augmentation.flip == "alternating":
            # One uniform an image; adding 1/2 in every other epoch takes it to the other side of 1/2.
            self.flips = torch.rand(len(images), generator=stream(seed, "flip")).to(self.device)
        last = len(indices) % batch_size
        dropped = drop_last or (self.training and last < world_size)
        self.batches = len(indices) // batch_size + (last > 0 and not dropped)

    def __len__(self) -> int:
        return self.batches

    @property
    def sizes(self) -> list[int]:
        """The sizes of this process's training batches: one, or two where the last batch is smaller."""
        last = len(self.indices) - (self.batches - 1) * self.batch_size
        return sorted({min(count, self.batch_size) // self.world_size for count in (self.batch_size, last)})

    def __iter__(self) -> Iterator[Batch]:
        """From the current position to the end of the epoch; the position is then the start of the next."""
        if not self.training:
            self.batch = 0
        order = self._order()
        while self.batch < self.batches:
            start = self.batch * self.batch_size
            batch = self._gather(order[start : start + self.batch_size])
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def start_epoch(self, epoch: int) -> None:
        """Go to the first batch of that epoch."""
        self.epoch, self.batch = epoch, 0

    @property
    def sampler(self) -> "BatchLoader":
        """Itself: Lightning calls ``sampler.set_epoch`` before each epoch, whatever the LightningModule."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of another epoch; a position within ``epoch`` is kept."""
        if epoch != self.epoch:
            self.start_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _order(self) -> Tensor:
        order = self.indices
        if self.shuffle:
            # Drawn on the CPU, so that training takes the same order on every device.
            order = order[torch.randperm(len(order), generator=stream(self.seed, "order", self.epoch))]
        return order.to(self.images.device)

    def _gather(self, chosen: Tensor) -> Batch:
        """This process's part of the images ``chosen`` for the step, augmented and on the device."""
        count = len(chosen)
        if self.training:
            chosen = chosen[: count // self.world_size * self.world_size]
        local = chosen[self.rank :: self.world_size]
        images = self.images[local] if self.map is None else self.map.take(self.images, local)
        labels = self.labels[local]
        if images.device != self.device:
            images, labels = images.to(self.device), labels.to(self.device)
        if self.augmentation:
            generator = stream(self.seed, "augmentation", self.epoch, self.batch, device=self.device)
            uniforms = self.augmentation.draw(count, generator)[: len(chosen)]
            if self.augmentation.flip == "alternating":
                uniforms[:, 0] = (self.flips[chosen.to(self.device)] + self.epoch % 2 / 2) % 1
            images = self.augmentation(images, uniforms[self.rank :: self.world_size])
        if self.small_size is not None and self.epoch < self.small_epochs and len(images):
            resized = F.interpolate(images.float(), self.small_size, mode="bilinear", antialias=True)
            images = resized.round_().to(images.dtype)
        return images, labels


# Augmentation ------------------------------------------------------------------------------------------


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
