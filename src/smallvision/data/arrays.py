"""npz files in the Keras layout: `x_train`, `y_train` and, where there is a test set, `x_test`, `y_test`."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.dataset import ImageDataset

KEYS = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}
# Unpacked. A small file can hold, or claim, anything; images pack to a twentieth at best.
MAX_BYTES, MAX_RATIO, ANY_RATIO_BELOW = 16 * 2**30, 100, 2**30
MAX_CLASSES = 100_000  # a label is a number, and every number below it a class
# What zipfile and numpy raise over damaged files: RuntimeError where a flag says encrypted or a method is
# unknown, MemoryError where a header claims more than there is.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Arrays:
    """``parts``: the four arrays of an ImageData by name; ``classes``: their names, if the file has them."""

    parts: dict[str, Tensor]
    classes: list[str] | None


def read(file: Path) -> Arrays:
    """Read N x H x W or N x H x W x C uint8 images and integer labels.

    Nothing is unpickled. Raises UserError, naming the file, where it is missing, damaged or of another form.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise UserError(f"{file}: {size / 2**30:.0f} GiB unpacked, more than the {MAX_BYTES // 2**30} allowed")
        if size > max(ANY_RATIO_BELOW, MAX_RATIO * file.stat().st_size):
            raise UserError(f"{file}: {size / 2**30:.0f} GiB unpacked, more than {MAX_RATIO} times the file: no images")
        with np.load(file, allow_pickle=False) as archive:
            missing = [key for key in ("x_train", "y_train") if key not in archive]
            if missing:
                raise UserError(f"{file}: has no {missing[0]}; the keys are x_train, y_train, x_test, y_test")
            found = {key: archive[key] for key in (*KEYS.values(), "classes") if key in archive}
        for key, array in found.items():
            if not isinstance(array, np.ndarray):  # numpy hands out what is no array as bytes
                raise ValueError(f"{key} is not an array")
    except UNREADABLE as error:
        raise UserError(f"{file}: truncated, altered or not an npz of plain arrays ({error})") from None

    parts = {}
    for part, key in KEYS.items():
        if key not in found:
            continue
        read_one = _labels if part.endswith("labels") else _images
        parts[part] = read_one(f"{file}, {key}", found[key])
    if ("test_images" in parts) != ("test_labels" in parts):
        raise UserError(f"{file}: x_test and y_test go together")
    if "test_images" not in parts:
        parts["test_images"] = parts["train_images"][:0]
        parts["test_labels"] = parts["train_labels"][:0]
    classes = [str(name) for name in found["classes"].reshape(-1)] if "classes" in found else None
    return Arrays(parts, classes)


def arrays(path: str) -> ImageDataset:
    """`data=arrays data.path=FILE.npz`: anybody's images in that layout.

    ``classes`` in the file, an array of strings, names the classes; else they are called by number.
    """
    file = Path(path).expanduser()
    read_arrays = read(file)
    labels = torch.cat([read_arrays.parts["train_labels"], read_arrays.parts["test_labels"]])
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > MAX_CLASSES:
        raise UserError(f"{file}: labels up to {count - 1}; {MAX_CLASSES:,} classes are allowed")
    classes = read_arrays.classes or [str(index) for index in range(count)]
    return ImageDataset.of(read_arrays.parts, file.stem, str(file), classes)


def _images(where: str, array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype != np.uint8:
        raise UserError(f"{where}: images must be uint8 (0 to 255), these are {array.dtype}")
    if array.ndim not in (3, 4):
        raise UserError(f"{where}: images must be N x H x W or N x H x W x C, these have shape {array.shape}")
    if array.ndim == 3:
        array = array[..., None]
    if array.shape[3] not in (1, 2, 3, 4):
        raise UserError(f"{where}: the last dimension must be 1 to 4 channels, the shape is {array.shape}")
    # As it lies, channels last: a copy in another order would double the memory for nothing.
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def _labels(where: str, array: np.ndarray[Any, Any]) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{where}: labels must be integers, these are {array.dtype}")
    if array.ndim == 2 and array.shape[1] == 1:  # as Keras has them for CIFAR-10
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{where}: labels must be one number an image, their shape is {array.shape}")
    return torch.from_numpy(array.astype(np.int64))
