"""`data=folder`: a tree of image files, one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from smallvision.data.record import ImageData
from smallvision.data.split import stratified_split
from smallvision.errors import Refusal

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
# Pillow's readers of these. It has others, whatever the file is called: that of EPS starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # of one image file, against decompression bombs
LARGE = 4_000_000  # pixels; such images are decoded one at a time, for the memory's sake
MODES = {1: "L", 3: "RGB"}
_one_at_a_time = Lock()


def folder(path: str, size: int = 32, channels: int = 3, test_share: float = 0.2) -> ImageData:
    """Every image of ``path`` as ``channels`` x ``size`` x ``size``, squeezed to a square.

    ``path/train/CLASS/*`` and ``path/test/CLASS/*`` where there is such a split, else ``path/CLASS/*``,
    of which ``test_share`` (a fraction) becomes the test set, class by class, the same images at every
    run. Classes are the folders' names in order. Raises Refusal, naming the file or folder.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise Refusal(f"data.path={path}: no such folder")
    split = (root / "train").is_dir() and (root / "test").is_dir()
    classes = _subfolders(root / "train" if split else root)
    if "train" in classes and set(classes) <= {"train", "val", "valid", "validation"}:
        raise Refusal(f"{root}: has train but no test; name the folder of test images {root / 'test'}")
    if len(classes) < 2:
        raise Refusal(f"{root}: needs a folder per class, at least two; found {len(classes)}")
    images, labels = _read(root / "train" if split else root, classes, size, channels)
    if split:
        extra = set(_subfolders(root / "test")) - set(classes)
        if extra:
            raise Refusal(f"{root / 'test' / min(extra)}: a class that {root / 'train'} does not have")
        test_images, test_labels = _read(root / "test", classes, size, channels)
    else:
        held_out = round(len(labels) * test_share)
        if held_out >= len(labels):
            raise Refusal(
                f"data.test_share={test_share}: leaves none of {root}'s {len(labels)} images to train on"
            )
        train, test = stratified_split(labels, held_out, seed=0)
        test_images, test_labels = images[test], labels[test]
        images, labels = images[train], labels[train]
    return ImageData(
        name=root.resolve().name,
        source=str(root) if split else f"{root}, {test_share:.0%} held out as its test set",
        classes=classes,
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def _subfolders(root: Path) -> list[str]:
    return sorted(e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith("."))


def _read(root: Path, classes: list[str], size: int, channels: int) -> tuple[Tensor, Tensor]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        here = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in SUFFIXES)
        files += here
        labels += [label] * len(here)
    if not files:
        raise Refusal(f"{root}: no image files in its class folders")
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
        pictures = list(pool.map(lambda file: _decode(file, size, channels), files))
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


def _decode(file: Path, size: int, channels: int) -> np.ndarray[Any, Any]:
    """uint8, channels x size x size; turned as the camera's note says, transparency on white."""
    if not file.is_file():  # to open a pipe waits for ever
        raise Refusal(f"{file}: not a readable image (not a file)")
    try:
        with Image.open(file, formats=FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                raise Refusal(f"{file}: {picture.width} x {picture.height} pixels, too large")
            with _one_at_a_time if pixels > LARGE else nullcontext():
                upright = _eight_bits(ImageOps.exif_transpose(picture))
                if upright.has_transparency_data:
                    upright = upright.convert("RGBA")
                    ground = Image.new("RGBA", upright.size, "white")
                    upright = Image.alpha_composite(ground, upright)
                shrinks = max(upright.size) > size
                plain = upright.convert(MODES[channels]).resize(
                    (size, size), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
                )
    except Refusal:
        raise
    except Exception as error:  # damage can surface as any kind
        raise Refusal(f"{file}: not a readable image ({error})") from None
    return np.asarray(plain, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey brought to 8 bits: Pillow's own conversion would cut off all above 255."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture).clip(0, 65_535)
    return Image.fromarray((grey >> 8).astype(np.uint8))
