"""Arrays become a data set: those of files (`data=arrays`), and what code of the user's gives (`data=own`)."""

import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.dataset import Arrays, ImageDataset
from smallvision.data.memory_map import UNREADABLE, map_file

KEYS = ("x_train", "y_train", "x_test", "y_test")  # in the order of Arrays
# Of the unpacked arrays, against zip bombs: no photographs or drawings compress to a hundredth.
MAX_BYTES, MAX_RATIO, ANY_RATIO_BELOW = 16 * 2**30, 100, 2**30
MAP_FROM = 2**28  # bytes; smaller arrays are read, after which the file may change
MAX_CLASSES = 100_000  # the largest label decides the number of classes

Array = Tensor | npt.NDArray[np.generic]
GIVES = (
    "must give (images, labels), (train images, train labels, test images, test labels), a dict of x_train, y_train,"
    " x_test, y_test, a data set of (image, label) or a pair of them, for training and test, or an ImageDataset"
)


def arrays(path: str) -> ImageDataset:
    """The images of ``path``: an npz file, or a folder of x_train.npy, y_train.npy and so on.

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
    """The four arrays, and the class names where the file (or folder of npy files) has them.

    Large arrays of images that are stored as they are, are mapped and not read: their file must stay as it is. Images
    may be N x H x W or N x H x W x C, uint8; labels any integers. Nothing is unpickled. Raises UserError, naming the
    file, where it is missing, damaged or has another layout.
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
    if not file.exists():
        raise UserError(f"{file}: no such file")
    try:
        stored = _load_folder(file) if file.is_dir() else _load_archive(file)
        for key, array in stored.items():
            if not isinstance(array, np.ndarray):  # numpy returns members that are not arrays as bytes
                raise ValueError(f"{key} is not an array")
    except UNREADABLE as error:
        raise UserError(f"{file}: truncated, altered or not an npz of plain arrays ({error})") from None
    missing = [key for key in ("x_train", "y_train") if key not in stored]
    if missing:
        raise UserError(f"{file}: has no {missing[0]}; the keys are {', '.join(KEYS)}")
    return stored


def _load_folder(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    files = {key: folder / f"{key}.npy" for key in (*KEYS, "classes")}
    stored = {}
    for key, file in files.items():
        if file.is_file():
            with file.open("rb") as stream:
                mapped = _map(file, stream, 0, file.stat().st_size)
            stored[key] = np.load(file, allow_pickle=False) if mapped is None else mapped
    return stored


def _load_archive(file: Path) -> dict[str, npt.NDArray[np.generic]]:
    on_disk = file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > max(MAX_BYTES, on_disk):
            raise UserError(f"{file}: {size / 2**30:.0f} GiB unpacked, more than the {MAX_BYTES // 2**30} allowed")
        if size > max(ANY_RATIO_BELOW, MAX_RATIO * on_disk):
            raise UserError(f"{file}: {size / 2**30:.0f} GiB unpacked, more than {MAX_RATIO} times the file: no images")
        mapped = {key: _map_member(file, archive, f"{key}.npy") for key in KEYS}
    with np.load(file, allow_pickle=False) as loader:
        found = [key for key in (*KEYS, "classes") if key in loader]
        return {key: loader[key] if (array := mapped.get(key)) is None else array for key in found}


def _map_member(file: Path, archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.uint8] | None:
    """As :func:`_map`, where the archive has it uncompressed. Raises one of UNREADABLE where it is damaged."""
    entry = archive.NameToInfo.get(name)
    if entry is None or entry.compress_type != zipfile.ZIP_STORED:
        return None
    with file.open("rb") as stream, archive.open(entry) as member:
        stream.seek(entry.header_offset + 26)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", stream.read(4)))  # after its name and extra field
        mapped = _map(file, member, start, entry.file_size)
        stream.seek(start)
        crc, left = 0, 0 if mapped is None else entry.file_size
        while left > 0 and (part := stream.read(min(left, 2**22))):
            crc, left = zlib.crc32(part, crc), left - len(part)
    if mapped is not None and crc != entry.CRC:
        raise ValueError(f"bad CRC-32 of {name}")
    return mapped


def _map(file: Path, member: IO[bytes], start: int, size: int) -> npt.NDArray[np.uint8] | None:
    """The array of a large npy file, which begins at ``start`` of ``file``, without reading it; None where it cannot be
    mapped. ``member``: what reads its header.
    """
    if size < MAP_FROM:
        return None
    old = np.lib.format.read_magic(member) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(member)
    if dtype != np.uint8 or fortran_order or member.tell() + math.prod(shape) != size:
        return None
    return map_file(file)[start + member.tell() : start + size].reshape(shape)


def as_images(where: str, array: npt.NDArray[np.generic]) -> Tensor:
    """N x C x H x W of N x H x W or N x H x W x C. Raises UserError, naming ``where``, for other than uint8."""
    if array.dtype != np.uint8:
        raise UserError(f"{where}: images must be uint8 (0 to 255), these are {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
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


# Of the user's own code ----------------------------------------------------------------------------------


def as_dataset(given: object, name: str, source: str) -> ImageDataset:
    """The data set of what ``source`` gave.

    Arrays of numpy are uint8, N x H x W or N x H x W x C; tensors uint8, N x C x H x W; labels whole numbers. The
    items of a data set, which are read once, are pairs of an image (PIL, an array, or a tensor C x H x W, uint8 or
    floats in [0, 1]) and its label; its ``classes``, where it has them, name the classes.

    Raises UserError, naming ``source``, for anything else.
    """
    classes: object = None
    parts: list[Any] = [*given] if isinstance(given, (tuple, list)) else [given]
    if isinstance(given, Mapping):
        classes, parts = given.get("classes"), [given[key] for key in KEYS if key in given]
    if len(parts) == 2 and all(isinstance(part, (tuple, list)) and len(part) == 2 for part in parts):
        parts = [*parts[0], *parts[1]]  # as Keras gives them
    if len(parts) in (2, 4) and all(isinstance(part, (Tensor, np.ndarray, list)) for part in parts):
        arrays = [_images_and_labels(source, *parts[at : at + 2]) for at in range(0, len(parts), 2)]
    elif len(parts) in (1, 2) and all(_is_dataset(part) for part in parts):
        classes = getattr(parts[0], "classes", classes)
        arrays = [_read(source, part) for part in parts]
    else:
        raise UserError(f"{source}: gave a {type(given).__name__}, {GIVES}")
    images, labels = arrays[0]
    test_images, test_labels = arrays[1] if len(arrays) > 1 else (images[:0], labels[:0])
    names = [str(one) for one in classes] if isinstance(classes, (Sequence, np.ndarray)) else []
    count = max([int(one.max()) + 1 for one in (labels, test_labels) if len(one)], default=0)
    return ImageDataset(
        name, source, names or [str(index) for index in range(count)], *Arrays(images, labels, test_images, test_labels)
    )


def _images_and_labels(source: str, images: Array, labels: Array | list[int]) -> tuple[Tensor, Tensor]:
    numbers = as_labels(f"{source}, labels", np.asarray(labels))
    if not isinstance(images, Tensor):
        return as_images(f"{source}, images", np.asarray(images)), numbers
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise UserError(f"{source}: tensors of images must be uint8, N x C x H x W")
    return images.cpu(), numbers


def _is_dataset(given: object) -> TypeGuard[Any]:
    return isinstance(given, Sized) and hasattr(given, "__getitem__") and not isinstance(given, (Tensor, np.ndarray))


def _read(source: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """Every item of a torchvision-style data set, once."""
    images, labels = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UserError(f"{source}: item {index} is a {type(item).__name__}, must be a pair of image and label")
        images.append(_image(f"{source}, item {index}", item[0]))
        labels.append(int(item[1]))
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise UserError(f"{source}: its images differ in shape, such as {shapes[0]} and {shapes[1]}; resize them there")
    if not images:
        raise UserError(f"{source}: there are no images")
    return torch.stack(images), torch.tensor(labels)


def _image(where: str, image: Any) -> Tensor:
    """uint8, C x H x W."""
    if not isinstance(image, Tensor):
        return as_images(where, np.array(image)[None])[0]  # a copy: PIL lends its pixels
    if image.is_floating_point():
        if not 0 <= float(image.min()) <= float(image.max()) <= 1:
            raise UserError(f"{where}: floats must be in [0, 1]; leave normalisation to data.normalisation")
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8 or image.ndim not in (2, 3):
        raise UserError(f"{where}: a tensor must be uint8 or floats in [0, 1], C x H x W")
    return image if image.ndim == 3 else image[None]
