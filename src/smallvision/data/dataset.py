"""A data set: its images and labels, what identifies it, how it is split and normalised."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.core.rng import stream
from smallvision.data.memory_map import find_map

CHUNK, CHUNK_BYTES = 4096, 2**24  # copied at a time: at most so many images, of at most so many bytes


class Arrays(NamedTuple):
    """Images, uint8, N x C x H x W, and their labels, int64, N. The test set may be empty."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def origin(name: str, source: str) -> str:
    """Both as one text, without the name where a path of that name begins the source."""
    path = Path(source.partition(", ")[0])
    return source if name in (path.name, path.stem) else f"{name}, {source}"


@dataclass(frozen=True)
class ImageDataset:
    """The :class:`Arrays` as they were read, before any split; labels are in ``range(len(classes))``.

    ``source``: where the bytes came from, for people to read. ``stand_in_for``: the data set that was asked for,
    where this one replaces it. ``remark``: what else one must know to read the results. ``digests``: SHA-256 of
    arrays that were hashed already. ``sums``: int64, N x C x 2, of the pixels of each training image and of their
    squares, where they are known.

    Raises UserError, naming ``source``, where the arrays do not fit together.
    """

    name: str
    source: str
    classes: list[str]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    stand_in_for: str | None = None
    remark: str | None = None
    digests: dict[str, str] = field(default_factory=dict, repr=False)
    sums: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = {"train": (self.train_images, self.train_labels), "test": (self.test_images, self.test_labels)}
        for part, (images, labels) in parts.items():
            if images.dtype != torch.uint8 or images.ndim != 4:
                raise UserError(f"{self.source}: {part} images must be uint8, N x C x H x W")
            if len(images) != len(labels):
                raise UserError(f"{self.source}: {len(images)} {part} images but {len(labels)} labels")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise UserError(
                    f"{self.source}: {part} labels run from {int(labels.min())} to {int(labels.max())},"
                    f" but there are {len(self.classes)} classes"
                )
        if not len(self.train_images):
            raise UserError(f"{self.source}: there are no training images")
        if len(self.test_images) and self.test_images.shape[1:] != self.train_images.shape[1:]:
            raise UserError(f"{self.source}: training and test images differ in shape")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def identity(self) -> dict[str, str | None]:
        """What checkpoints and results.json record about the data."""
        names = ("name", "source", "fingerprint", "stand_in_for", "remark")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any pixel, label or class name."""
        total = hashlib.sha256("\n".join(self.classes).encode())
        for key in Arrays._fields:
            total.update((self.digests.get(key) or digest(getattr(self, key))).encode())
        return total.hexdigest()[:16]


def digest(array: Tensor) -> str:
    """SHA-256 of the array's bytes in the order of its dimensions, whatever its memory layout."""
    total = hashlib.sha256()
    for chunk in chunks(array):
        total.update(np.ascontiguousarray(chunk.numpy()).data)
    return total.hexdigest()


def chunks(images: Tensor, indices: Tensor | None = None) -> Iterator[Tensor]:
    """The images, or those of ``indices``, a part at a time, so that the pages of a map do not fill the memory."""
    mapped = find_map(images.data_ptr())
    size = max(1, min(CHUNK, CHUNK_BYTES // max(1, images[:1].numel())))
    for part in (images if indices is None else indices).split(size):
        if indices is not None:
            yield images[part] if mapped is None else mapped.take(images, part)
            continue
        yield part
        if mapped is not None:
            mapped.use(part.nbytes)


def validation_size(labels: Tensor, wanted: float | None) -> int:
    """Images to hold out of those with these ``labels``: that number, that fraction, or by default a tenth, but with an
    image of each class that has two.
    """
    if isinstance(wanted, int):
        return wanted
    if wanted is None:
        return max(round(len(labels) / 10), int((torch.bincount(labels) > 1).sum()))
    return max(round(len(labels) * wanted), wanted > 0)


def stratified_split(labels: Tensor, size: int, seed: int, each_class: bool = False) -> tuple[Tensor, Tensor]:
    """Sorted indices (train, validation) of a random split with the same class proportions in both.

    ``labels``: int64, N. Validation gets exactly ``size`` images; each class's number is rounded by largest
    remainder. ``each_class``: of each class that has two images it gets one, where ``size`` allows it. The stream is
    (seed, "split").

    Raises UserError where ``size`` would leave nothing to train on.
    """
    total = len(labels)
    if size >= total:
        raise UserError(
            f"data.val_size={size}: larger than the data, which has {total} training images; use a value below {total}"
        )
    counts = torch.bincount(labels)
    exact = counts.double() * size / total
    held_out = exact.floor().long()
    by_remainder = torch.argsort(exact - held_out, descending=True, stable=True)
    held_out[by_remainder[: size - int(held_out.sum())]] += 1
    missing = (counts > 1) & (held_out == 0)
    if each_class and size >= int((counts > 1).sum()):
        for index in missing.nonzero():
            held_out[held_out.argmax()] -= 1
            held_out[index] = 1

    shuffled = torch.randperm(total, generator=stream(seed, "split"))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    first_of_class = torch.cumsum(counts, 0) - counts
    rank_in_class = torch.arange(total) - torch.repeat_interleave(first_of_class, counts)
    is_validation = rank_in_class < torch.repeat_interleave(held_out, counts)
    return by_class[~is_validation].sort().values, by_class[is_validation].sort().values


def mean_and_std(
    images: Tensor, indices: Tensor | None = None, sums: Tensor | None = None
) -> tuple[list[float], list[float]]:
    """Per channel over all pixels of ``images`` (uint8, N x C x H x W) or those of ``indices``, as fractions of
    255.

    ``sums``: as in :class:`ImageDataset`. They and the pixels give the same bits: sums of whole numbers are exact. A
    constant channel gets a standard deviation of 1.
    """
    count = (len(images) if indices is None else len(indices)) * images[0, 0].numel()
    if sums is not None:
        total, squares = (sums if indices is None else sums[indices]).sum(0).double().unbind(1)
    else:
        total = torch.zeros(images.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in chunks(images, indices):
            pixels = chunk.transpose(0, 1).flatten(1).float()
            total += pixels.sum(1, dtype=torch.float64)
            squares += pixels.square().sum(1, dtype=torch.float64)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    std = torch.where(variance > 0, variance.sqrt(), 255.0)
    return (mean / 255).tolist(), (std / 255).tolist()
