"""The plain record that every source ends as."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallvision.errors import Refusal

CHUNK = 4096  # entries copied at a time
PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def digest(array: Tensor) -> str:
    """SHA-256 of the array's bytes in the order of its dimensions, however it lies in memory."""
    whole = hashlib.sha256()
    for chunk in array.split(CHUNK):
        whole.update(np.ascontiguousarray(chunk.numpy()).data)
    return whole.hexdigest()


@dataclass(frozen=True)
class ImageData:
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
                raise Refusal(f"{self.source}: {part} images must be uint8, N x C x H x W")
            if len(images) != len(labels):
                raise Refusal(f"{self.source}: {len(images)} {part} images but {len(labels)} labels")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise Refusal(
                    f"{self.source}: {part} labels run from {int(labels.min())} to {int(labels.max())},"
                    f" but there are {len(self.classes)} classes"
                )
        if not len(self.train_images):
            raise Refusal(f"{self.source}: there are no training images")
        if len(self.test_images) and self.test_images.shape[1:] != self.train_images.shape[1:]:
            raise Refusal(f"{self.source}: training and test images differ in shape")

    @classmethod
    def of(
        cls, parts: dict[str, Tensor], name: str, source: str, classes: list[str], **said: Any
    ) -> "ImageData":
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
