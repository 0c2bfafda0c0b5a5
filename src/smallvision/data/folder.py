"""`data=folder`: a tree of image files, one folder per class."""

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data import cache
from smallvision.data.dataset import Arrays, ImageDataset, stratified_split
from smallvision.data.image_files import MODES, SUFFIXES

PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folders that are no classes


@contextmanager
def _readable() -> Iterator[None]:
    """What the disk refuses becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


@_readable()
def folder(
    path: str, size: int = 32, channels: int = 3, test_fraction: float = 0.2, data_dir: str | None = None
) -> ImageDataset:
    """Every image below ``path``, stretched to ``channels`` x ``size`` x ``size``; transparency becomes white.

    ``path/train/CLASS/*`` and ``path/test/CLASS/*`` where both exist, else ``path/CLASS/*``, of which the
    fraction ``test_fraction`` becomes the test set, stratified, the same images in every run. Classes are the
    folders' names, sorted. The images are decoded once and kept in ``data_dir/cache``; None: at each call, in memory.
    Raises UserError, naming the file or folder.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"data.path={path}: no such folder")
    if channels not in MODES:
        raise UserError(f"data.channels={channels}: image files have 1 (grey) or 3 (colour)")
    split = (root / "train").is_dir() and (root / "test").is_dir()
    train_root = root / "train" if split else root
    file = None
    if data_dir is not None:
        file = cache.cache_file(data_dir, root, size, channels, "split" if split else test_fraction)
    classes = _subfolders(train_root, file)
    if classes and not split and {name.lower() for name in classes} <= PARTS:
        raise UserError(f"{root}: has {', '.join(classes)}; name the folders of its classes' images train and test")
    if len(classes) < 2:
        raise UserError(f"{root}: needs a folder per class, at least two; found {len(classes)}")
    for name in classes:
        if name.encode(errors="ignore") != os.fsencode(name):
            raise UserError(f"{train_root / name}: the name of a class is not UTF-8")
    names, stats, labels = _find(root, "train/" * split, classes)
    of_each = torch.bincount(labels, minlength=len(classes)).tolist()
    if 0 in of_each:
        raise UserError(f"{train_root / classes[of_each.index(0)]}: no image files in this class's folder; remove it")
    count = len(names)
    if split:
        extra = set(_subfolders(root / "test", file)) - set(classes)
        if extra:
            raise UserError(f"{root / 'test' / min(extra)}: a class that {root / 'train'} does not have")
        tests = _find(root, "test/", classes)
        names, stats, labels = names + tests[0], np.concatenate([stats, tests[1]]), torch.cat([labels, tests[2]])
    else:
        held_out = round(count * test_fraction)
        if held_out >= count:
            raise UserError(f"data.test_fraction={test_fraction}: leaves none of {root}'s {count} images to train on")
        order = torch.cat(stratified_split(labels, held_out, seed=0))
        names, stats, labels = [names[row] for row in order.tolist()], stats[order], labels[order]
        count -= held_out
    found = cache.load(cache.ImageFiles(root, names, stats, count, (channels, size, size)), file)
    images, digests = torch.from_numpy(found.images), dict(zip(Arrays._fields[::2], found.digests, strict=True))
    arrays = images[:count], labels[:count], images[count:], labels[count:]
    source = str(root) if split else f"{root}, {test_fraction:.0%} held out as its test set"
    return ImageDataset(
        root.resolve().name, source, classes, *arrays, digests=digests, sums=torch.from_numpy(found.sums[:count])
    )


def _subfolders(root: Path, file: Path | None) -> list[str]:
    """Those of the classes; not that of the cache's ``file``, which may lie there."""
    ours = None if file is None or not (file.parent / cache.TAG).is_file() else file.parent.resolve()
    folders = (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(entry.name for entry in folders if ours is None or entry.resolve() != ours)


def _find(root: Path, prefix: str, classes: list[str]) -> tuple[list[str], npt.NDArray[np.int64], Tensor]:
    """The image files of those classes: names below ``root``, ``stats`` as in :class:`cache.ImageFiles`, labels."""
    names: list[str] = []
    stats = array("q")  # a million tuples would take 200 MB
    counts = [0]
    for name in classes:
        _walk(str(root), f"{prefix}{name}", names, stats)
        counts.append(len(names))
    if not names:
        raise UserError(f"{root / prefix}: no image files in its class folders")
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts).diff())
    return names, np.frombuffer(stats, np.int64).reshape(-1, 3), labels


def _walk(root: str, below: str, names: list[str], stats: "array[int]") -> None:
    """Add the image files in the folder ``below``, in the order of the parts of their names."""
    folder = os.path.join(root, below)  # noqa: PTH118 - a Path for each of a million files takes seconds
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if os.path.isdir(folder) else []  # noqa: PTH112
    for entry in entries:
        if entry.name.startswith("."):  # as macOS and Jupyter leave there
            continue
        stem, _, ending = entry.name.rpartition(".")
        if entry.is_dir(follow_symlinks=False):
            _walk(root, f"{below}/{entry.name}", names, stats)
        elif stem and f".{ending.lower()}" in SUFFIXES:
            try:
                found = entry.stat()
                stats.extend((found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            except OSError:  # a link to nothing, which the decoder names
                stats.extend((cache.CHANGED, 0, 0))
            names.append(f"{below}/{entry.name}")
