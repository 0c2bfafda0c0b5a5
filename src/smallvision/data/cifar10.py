"""`data=cifar10`: torchvision's folder of batches, or a prepared npz."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smallvision.data import npz
from smallvision.data.download import Offline, download_into
from smallvision.data.official import Array, held_against
from smallvision.data.record import ImageData
from smallvision.data.standin import stand_in
from smallvision.errors import Refusal

CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
FOLDER = "cifar-10-batches-py"
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
# Of the test set we have only had the first thousand images: a longer one is known by them.
OFFICIAL = {
    "train_images": Array(
        (50_000, 3, 32, 32), "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111", 50_000
    ),
    "train_labels": Array(
        (50_000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253", 50_000
    ),
    "test_images": Array(
        (10_000, 3, 32, 32), "f167149948fc8fe0b9a76ba86421e987817f98b63761ba9415c5d42664d51f03", 1_000
    ),
    "test_labels": Array(
        (10_000,), "636a087e604331a0b9dafc94b6e9ade0c9cec72c4400d12473ccdb3e264474c1", 1_000
    ),
}


def cifar10(data_dir: str, offline: str = "stand_in") -> ImageData:
    """CIFAR-10: 50,000 + 10,000 photographs, 3 x 32 x 32 (A. Krizhevsky, 2009)."""
    root = Path(data_dir).expanduser()
    prepared = root / "cifar10.npz"
    for place in (root, root / "cifar10", root / "CIFAR10"):
        if _complete(place):
            return _from_batches(place)
    if prepared.is_file():
        named = {part: f"{prepared}, {key}" for part, key in npz.KEYS.items()}
        parts = npz.read(prepared).parts
        return held_against(OFFICIAL, "cifar10", CLASSES, str(prepared), parts, named)
    try:
        download_into(root, [_official().url], _download, lambda: _complete(root))
    except Offline as reason:
        return stand_in("cifar10", offline, reason, f"{FOLDER}/ or cifar10.npz in {root}")
    return _from_batches(root)


def _complete(place: Path) -> bool:
    return all((place / FOLDER / name).is_file() for name in BATCHES)


def _official() -> Any:
    from torchvision.datasets import CIFAR10  # slow to import, and only its own folder needs it

    return CIFAR10


def _download(scratch: Path) -> None:
    _official()(str(scratch), download=True)
    for archive in scratch.glob("*.tar.gz"):
        archive.unlink()


def _from_batches(root: Path) -> ImageData:
    """torchvision's batches are pickles: each is opened only after its checksum was found right."""
    from torchvision.datasets.utils import check_integrity

    official = _official()
    meta = official.meta["filename"], official.meta["md5"]
    for name, md5 in [*official.train_list, *official.test_list, meta]:
        file = root / FOLDER / name
        if not check_integrity(str(file), md5):
            raise Refusal(f"{file}: truncated or altered; delete it to download it again")
    parts: dict[str, Tensor] = {}
    for part, train in (("train", True), ("test", False)):
        batches = official(str(root), train=train)
        parts[f"{part}_images"] = torch.from_numpy(batches.data).permute(0, 3, 1, 2)
        parts[f"{part}_labels"] = torch.tensor(batches.targets)
    return ImageData.of(parts, "cifar10", str(root / FOLDER), CLASSES)
