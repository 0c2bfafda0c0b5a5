"""`data=folder`: a tree of image files, one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.dataset import ImageDataset, stratified_split
from smallvision.data.image_files import SUFFIXES, flatten_alpha, open_image, stretch


def folder(path: str, size: int = 32, channels: int = 3, test_fraction: float = 0.2) -> ImageDataset:
    """Every image below ``path``, stretched to ``channels`` x ``size`` x ``size``; transparency becomes white.

    ``path/train/CLASS/*`` and ``path/test/CLASS/*`` where both exist, else ``path/CLASS/*``, of which the
    fraction ``test_fraction`` becomes the test set, stratified, the same images in every run. Classes are the
    folders' names, sorted. Raises UserError, naming the file or folder.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"data.path={path}: no such folder")
    split = (root / "train").is_dir() and (root / "test").is_dir()
    train_root = root / "train" if split else root
    classes = _subfolders(train_root)
    if "train" in classes and set(classes) <= {"train", "val", "valid", "validation"}:
        raise UserError(f"{root}: has train but no test; name the folder of test images {root / 'test'}")
    if len(classes) < 2:
        raise UserError(f"{root}: needs a folder per class, at least two; found {len(classes)}")
    images, labels = _read(train_root, classes, size, channels)
    if split:
        extra = set(_subfolders(root / "test")) - set(classes)
        if extra:
            raise UserError(f"{root / 'test' / min(extra)}: a class that {root / 'train'} does not have")
        test_images, test_labels = _read(root / "test", classes, size, channels)
    else:
        held_out = round(len(labels) * test_fraction)
        if held_out >= len(labels):
            raise UserError(
                f"data.test_fraction={test_fraction}: leaves none of {root}'s {len(labels)} images to train on"
            )
        train, test = stratified_split(labels, held_out, seed=0)
        test_images, test_labels = images[test], labels[test]
        images, labels = images[train], labels[train]
    source = str(root) if split else f"{root}, {test_fraction:.0%} held out as its test set"
    return ImageDataset(root.resolve().name, source, classes, images, labels, test_images, test_labels)


def _subfolders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _read(root: Path, classes: list[str], size: int, channels: int) -> tuple[Tensor, Tensor]:
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise UserError(f"{root}: no image files in its class folders")
    paths, labels = zip(*files, strict=True)
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        images = torch.from_numpy(np.stack(list(pool.map(partial(_decode, size, channels), paths))))
    return images.view(-1, size, size, channels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _decode(size: int, channels: int, file: Path) -> npt.NDArray[np.uint8]:
    with open_image(file, str(file)) as image:
        return np.asarray(stretch(flatten_alpha(image), channels, (size, size)))
