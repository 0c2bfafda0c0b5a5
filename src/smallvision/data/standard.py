"""Which arrays are the official ones of a named data set, whatever container they lie in."""

import gzip
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data import arrays as npz
from smallvision.data.dataset import PARTS, ImageDataset, digest
from smallvision.data.digits import digits
from smallvision.data.download import Offline, download_into
from smallvision.data.shapes import shapes


@dataclass(frozen=True)
class Array:
    """The official array: its shape, and the SHA-256 of its first ``known`` entries, labels as one byte."""

    shape: tuple[int, ...]
    sha256: str
    known: int


def held_against(
    official: dict[str, Array], name: str, classes: list[str], source: str, parts: dict[str, Tensor],
    files: dict[str, str],
) -> ImageDataset:  # fmt: skip
    """The record of ``parts``, each held against the official array; ``files`` says where each lies.

    Where an array has the official size (or, for test arrays beside genuine training arrays, at least the
    known part of it) but other bytes, it is damaged: UserError, naming the file. Arrays of another size are
    somebody's own: they are used as a stand-in and say so. Fewer test images than the official set has
    are remarked upon.
    """
    digests: dict[str, str] = {}
    foreign: set[str] = set()
    for part in PARTS:
        array, expected = parts[part], official[part]
        stored = array.to(torch.uint8) if part.endswith("labels") else array
        if array.shape[1:] == expected.shape[1:] and expected.known <= len(array) <= expected.shape[0]:
            first = digest(stored[: expected.known])
            if expected.known == len(array) == expected.shape[0] and stored is array:
                digests[part] = first
            if first == expected.sha256:
                continue
            full = array.shape == expected.shape
            if full or (part.startswith("test") and not foreign):
                raise UserError(
                    f"{files[part]}: altered: these are not the official {name} bytes;"
                    " delete the file to download it again"
                )
        foreign.add(part)
    count, whole = len(parts["test_labels"]), official["test_labels"].shape[0]
    stand_in_for, remark = None, None
    if foreign & {"train_images", "train_labels"}:
        stand_in_for, source = name, f"{source}: not the official {name}, other images of its form"
    elif foreign and count:
        remark = f"the {count:,} test images are not the official ones"
    elif count < whole:
        remark = f"only {count:,} of the {whole:,} test images are here"
    return ImageDataset.of(parts, name, source, classes, stand_in_for=stand_in_for, remark=remark, digests=digests)


FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
MNIST = {
    "train_images": Array(
        (60_000, 1, 28, 28), "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757", 60_000
    ),
    "train_labels": Array((60_000,), "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13", 60_000),
    "test_images": Array(
        (10_000, 1, 28, 28), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161", 10_000
    ),
    "test_labels": Array((10_000,), "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5", 10_000),
}
FASHION_MNIST = {
    "train_images": Array(
        (60_000, 1, 28, 28), "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012", 60_000
    ),
    "train_labels": Array((60_000,), "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7", 60_000),
    "test_images": Array(
        (10_000, 1, 28, 28), "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a", 10_000
    ),
    "test_labels": Array((10_000,), "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9", 10_000),
}
GARMENTS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
]  # fmt: skip


def mnist(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """MNIST: 60,000 + 10,000 handwritten digits, 1 x 28 x 28 (Y. LeCun, C. Cortes, C. Burges)."""
    return _load("mnist", "MNIST", [str(digit) for digit in range(10)], MNIST, data_dir, offline)


def fashion_mnist(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """FashionMNIST: 60,000 + 10,000 garments, 1 x 28 x 28 (H. Xiao et al., arXiv:1708.07747)."""
    return _load("fashion_mnist", "FashionMNIST", GARMENTS, FASHION_MNIST, data_dir, offline)


def _load(
    name: str, folder: str, classes: list[str], official: dict[str, Array], data_dir: str, offline: str
) -> ImageDataset:
    """What lies in ``data_dir``, else a download into it, else a stand-in or a refusal."""
    root = Path(data_dir).expanduser()
    places = [root / folder / "raw", root / folder, root / name, root, root / "raw"]
    found = _find(places)
    if found is None and (prepared := root / f"{name}.npz").is_file():
        arrays = npz.read(prepared)
        named = {part: f"{prepared}, {key}" for part, key in npz.KEYS.items()}
        return held_against(official, name, classes, str(prepared), arrays.parts, named)
    if found is None:
        try:
            download_into(
                root,
                _official(folder).mirrors,
                lambda scratch: _download(folder, scratch),
                lambda: _find(places) is not None,
            )
        except Offline as reason:
            hint = f"its four idx files in {root / folder / 'raw'} or {name}.npz in {root}"
            return stand_in(name, offline, reason, hint)
        found = _find(places)
        assert found is not None
    parts = {part: read_idx(file) for part, file in found.items()}
    named = {part: str(file) for part, file in found.items()}
    return held_against(official, name, classes, str(found["train_images"].parent), parts, named)


def _find(places: list[Path]) -> dict[str, Path] | None:
    """The four files of the first place that has them all; an unpacked file goes before a packed one."""
    for place in places:
        found = {}
        for part, stem in FILES.items():
            # The second spelling is what some unpackers of the original archives leave.
            for spelling in (stem, stem.replace("-idx", ".idx"), f"{stem}.gz"):
                if (place / spelling).is_file():
                    found[part] = place / spelling
                    break
        if len(found) == len(FILES):
            return found
    return None


def _official(folder: str) -> Any:
    from torchvision import datasets  # slow to import, and only a download needs it

    return getattr(datasets, folder)


def _download(folder: str, scratch: Path) -> None:
    _official(folder)(str(scratch), download=True)
    for unpacked in (scratch / folder / "raw").glob("*-ubyte"):
        unpacked.unlink()  # the packed files hold the same


def read_idx(file: Path) -> Tensor:
    """uint8, N x 1 x H x W, from an idx3 file, or int64, N, from an idx1 file; ``.gz`` is unpacked.

    Raises UserError, naming the file, where it is truncated, altered or another kind of file.
    """
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: truncated or altered ({error}); delete it to download it again") from None
    dimensions = raw[3] if len(raw) >= 4 else 0
    if raw[:3] != b"\0\0\x08" or dimensions not in (1, 3):
        raise UserError(f"{file}: not an idx file of bytes; delete it to download it again")
    header = 4 + 4 * dimensions
    shape = [int(length) for length in np.frombuffer(raw[4:header].ljust(header - 4, b"\0"), ">u4")]
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise UserError(
            f"{file}: truncated or altered: it has {len(raw):,} bytes and says it has {expected:,};"
            " delete it to download it again"
        )
    array = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[header:]
    return array.long() if dimensions == 1 else array.view(shape[0], 1, shape[1], shape[2])


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
    "train_labels": Array((50_000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253", 50_000),
    "test_images": Array(
        (10_000, 3, 32, 32), "f167149948fc8fe0b9a76ba86421e987817f98b63761ba9415c5d42664d51f03", 1_000
    ),
    "test_labels": Array((10_000,), "636a087e604331a0b9dafc94b6e9ade0c9cec72c4400d12473ccdb3e264474c1", 1_000),
}


def cifar10(data_dir: str, offline: str = "stand_in") -> ImageDataset:
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
        download_into(root, [_cifar10_official().url], _cifar10_download, lambda: _complete(root))
    except Offline as reason:
        return stand_in("cifar10", offline, reason, f"{FOLDER}/ or cifar10.npz in {root}")
    return _from_batches(root)


def _complete(place: Path) -> bool:
    return all((place / FOLDER / name).is_file() for name in BATCHES)


def _cifar10_official() -> Any:
    from torchvision.datasets import CIFAR10  # slow to import, and only its own folder needs it

    return CIFAR10


def _cifar10_download(scratch: Path) -> None:
    _cifar10_official()(str(scratch), download=True)
    for archive in scratch.glob("*.tar.gz"):
        archive.unlink()


def _from_batches(root: Path) -> ImageDataset:
    """torchvision's batches are pickles: each is opened only after its checksum was found right."""
    from torchvision.datasets.utils import check_integrity

    official = _cifar10_official()
    meta = official.meta["filename"], official.meta["md5"]
    for name, md5 in [*official.train_list, *official.test_list, meta]:
        file = root / FOLDER / name
        if not check_integrity(str(file), md5):
            raise UserError(f"{file}: truncated or altered; delete it to download it again")
    parts: dict[str, Tensor] = {}
    for part, train in (("train", True), ("test", False)):
        batches = official(str(root), train=train)
        parts[f"{part}_images"] = torch.from_numpy(batches.data).permute(0, 3, 1, 2)
        parts[f"{part}_labels"] = torch.tensor(batches.targets)
    return ImageDataset.of(parts, "cifar10", str(root / FOLDER), CLASSES)


def stand_in(named: str, offline: str, reason: Offline, hint: str) -> ImageDataset:
    """A data set of the same image size that says what it stands in for.

    ``offline``: "stand_in", or "error" to refuse; ``hint``: where the real files are looked for.
    """
    if offline == "error":
        raise UserError(
            f"data={named}: not found and not downloaded ({reason}); put {hint}, or use data.offline=stand_in"
        )
    if named == "mnist":
        data = digits()
    elif named == "fashion_mnist":
        data = shapes(size=28, channels=1)
    else:
        data = shapes(size=32, channels=3)
    return replace(data, stand_in_for=named, source=f"stand-in for {named} ({reason}): {data.source}")
