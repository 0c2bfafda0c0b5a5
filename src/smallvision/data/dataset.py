"""The plain record that every source ends as."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.core.rng import stream

CHUNK = 4096  # entries copied at a time
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def digest(array: Tensor) -> str:
    """SHA-256 of the array's bytes in the order of its dimensions, however it lies in memory."""
    whole = hashlib.sha256()
    for chunk in array.split(CHUNK):
        whole.update(np.ascontiguousarray(chunk.numpy()).data)
    return whole.hexdigest()


@dataclass(frozen=True)
class ImageDataset:
    """Images and labels as they are, before any split.

    ``train_images`` and ``test_images`` are uint8, N x C x H x W; the labels int64, N, in
    ``range(len(classes))``. ``test_images`` may be empty where a user's data has no test set.
    ``source`` says in words where the bytes came from; ``stand_in_for`` names the data set that was asked
    for when this is not it; ``remark`` says anything else that a figure must be read with.
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

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
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

    @classmethod
    def of(cls, parts: dict[str, Tensor], name: str, source: str, classes: list[str], **said: Any) -> "ImageDataset":
        """From the four arrays by name."""
        arrays: Any = {part: parts[part] for part in PARTS}
        return cls(name, source, classes, **arrays, **said)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def identity(self) -> dict[str, str | None]:
        """What checkpoints and results.json say of the data."""
        names = ("name", "source", "fingerprint", "stand_in_for", "remark")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change when any pixel, label or class name does."""
        whole = hashlib.sha256("\n".join(self.classes).encode())
        for part in PARTS:
            whole.update((self.digests.get(part) or digest(getattr(self, part))).encode())
        return whole.hexdigest()[:16]


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (train, validation), both sorted, of a split that keeps each class's share.

    ``labels``: int64, N. Validation gets exactly ``size`` images; a class's share is its fraction of
    ``size``, the fractions rounded by largest remainder. The draw is keyed by (seed, "split").

    Raises UserError where ``size`` would leave nothing to train on.
    """
    total = len(labels)
    if size >= total:
        raise UserError(
            f"data.val_size={size}: larger than the data, which has {total} training images; use a value below {total}"
        )
    counts = torch.bincount(labels)
    exact = counts.double() * size / total
    share = exact.floor().long()
    by_remainder = torch.argsort(exact - share, descending=True, stable=True)
    share[by_remainder[: size - int(share.sum())]] += 1

    shuffled = torch.randperm(total, generator=stream(seed, "split"))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(total) - torch.repeat_interleave(first, counts)
    held_out = rank < torch.repeat_interleave(share, counts)
    return by_class[~held_out].sort().values, by_class[held_out].sort().values


STATISTICS_CHUNK = 4096


def mean_and_std(images: Tensor) -> tuple[list[float], list[float]]:
    """Per channel over all pixels of ``images`` (uint8, N x C x H x W), as fractions of 255.

    A channel without any variation gets a standard deviation of 1.
    """
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in images.split(STATISTICS_CHUNK):
        pixels = chunk.transpose(0, 1).flatten(1).float()
        total += pixels.sum(1, dtype=torch.float64)
        squares += pixels.square().sum(1, dtype=torch.float64)
    count = images.numel() / images.shape[1]
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    std = torch.where(variance > 0, variance.sqrt(), 255.0)
    return (mean / 255).tolist(), (std / 255).tolist()
