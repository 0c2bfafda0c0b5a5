"""`data=own`: what a function of the user's gives becomes an ImageDataset."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.arrays import KEYS, as_images, as_labels
from smallvision.data.dataset import Arrays, ImageDataset

Array = Tensor | npt.NDArray[np.generic]
GIVES = (
    "must give (images, labels), (train images, train labels, test images, test labels), a dict of x_train, y_train,"
    " x_test, y_test, a data set of (image, label) or a pair of them, for training and test, or an ImageDataset"
)


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
