"""`data=arrays`: npz files in the Keras layout, `x_train`, `y_train` and optionally `x_test`, `y_test`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.dataset import Arrays, ImageDataset

KEYS = ("x_train", "y_train", "x_test", "y_test")  # in the order of Arrays
# Of the unpacked arrays, against zip bombs: no photographs or drawings compress to a hundredth.
MAX_BYTES, MAX_RATIO, ANY_RATIO_BELOW = 16 * 2**30, 100, 2**30
MAX_CLASSES = 100_000  # the largest label decides the number of classes
# What zipfile and numpy raise over damaged files: RuntimeError where a flag says encrypted or a method is
# unknown, MemoryError where a header claims more than there is.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def arrays(path: str) -> ImageDataset:
    """The images of the npz file ``path``.

    Its array of strings ``classes``, where it has one, names the classes; otherwise they are numbered.
    """
    file = Path(path).expanduser()
    found, classes = read_npz(file)
    labels = torch.cat([found.train_labels, found.test_labels])
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > MAX_CLASSES:
        raise UserError(f"{file}: labels up to {count - 1}; {MAX_CLASSES:,} classes are allowed")
    return ImageDataset(file.stem, str(file), classes or [str(index) for index in range(count)], *found)


def read_npz(file: Path) -> tuple[Arrays, list[str] | None]:
    """The four arrays, and the class names where the file has them.

    Images may be N x H x W or N x H x W x C, uint8; labels any integers. Nothing is unpickled. Raises
    UserError, naming the file, where it is missing, damaged or has another layout.
    """
    stored = _load(file)
    if ("x_test" in stored) != ("y_test" in stored):
        raise UserError(f"{file}: x_test and y_test go together")
    images, labels = as_images(f"{file}, x_train", stored["x_train"]), as_labels(f"{file}, y_train", stored["y_train"])
    test_images, test_labels = images[:0], labels[:0]
    if "x_test" in stored:
        test_images = as_images(f"{file}, x_test", stored["x_test"])
        test_labels = as_labels(f"{file}, y_test", stored["y_test"])
    classes = [str(name) for name in stored["classes"].reshape(-1)] if "classes" in stored else None
    return Arrays(images, labels, test_images, test_labels), classes


def _load(file: Path) -> dict[str, npt.NDArray[np.generic]]:
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
                raise UserError(f"{file}: has no {missing[0]}; the keys are {', '.join(KEYS)}")
            stored = {key: archive[key] for key in (*KEYS, "classes") if key in archive}
        for key, array in stored.items():
            if not isinstance(array, np.ndarray):  # numpy returns members that are not arrays as bytes
                raise ValueError(f"{key} is not an array")
    except UNREADABLE as error:
        raise UserError(f"{file}: truncated, altered or not an npz of plain arrays ({error})") from None
    return stored


def as_images(where: str, array: npt.NDArray[np.generic]) -> Tensor:
    """N x C x H x W of N x H x W or N x H x W x C. Raises UserError, naming ``where``, for other than uint8."""
    if array.dtype != np.uint8:
        raise UserError(f"{where}: images must be uint8 (0 to 255), these are {array.dtype}")
    if array.ndim not in (3, 4):
        raise UserError(f"{where}: images must be N x H x W or N x H x W x C, these have shape {array.shape}")
    if array.ndim == 3:
        array = array[..., None]
    if array.shape[3] not in (1, 2, 3, 4):
        raise UserError(f"{where}: the last dimension must be 1 to 4 channels, the shape is {array.shape}")
    # A view, channels last in memory: a contiguous copy would double the memory for nothing.
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)


def as_labels(where: str, array: npt.NDArray[np.generic]) -> Tensor:
    """int64, N. Raises UserError, naming ``where``, for other than whole numbers."""
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{where}: labels must be integers, these are {array.dtype}")
    if array.ndim == 2 and array.shape[1] == 1:  # as Keras has them for CIFAR-10
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{where}: labels must be one number an image, their shape is {array.shape}")
    return torch.from_numpy(array.astype(np.int64))
