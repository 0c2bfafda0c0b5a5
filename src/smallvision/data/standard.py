"""MNIST, FashionMNIST and CIFAR-10: found in ``data_dir``, else downloaded, else replaced by a stand-in."""

import gzip
import math
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.arrays import KEYS, read_npz
from smallvision.data.dataset import ARRAYS, ImageDataset, digest
from smallvision.data.digits import digits
from smallvision.data.download import Offline, download_into
from smallvision.data.shapes import shapes


def mnist(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """MNIST: 60,000 + 10,000 handwritten digits, 1 x 28 x 28 (Y. LeCun, C. Cortes, C. Burges)."""
    mnist = IdxDataset("mnist", "MNIST", DIGITS, "MNIST/raw with its four idx files")
    return mnist.load(Path(data_dir).expanduser(), offline)


def fashion_mnist(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """FashionMNIST: 60,000 + 10,000 garments, 1 x 28 x 28 (H. Xiao et al., arXiv:1708.07747)."""
    fashion = IdxDataset("fashion_mnist", "FashionMNIST", GARMENTS, "FashionMNIST/raw with its four idx files")
    return fashion.load(Path(data_dir).expanduser(), offline)


def cifar10(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """CIFAR-10: 50,000 + 10,000 photographs, 3 x 32 x 32 (A. Krizhevsky, 2009)."""
    cifar = CifarDataset("cifar10", "CIFAR10", OBJECTS, f"{CIFAR_FOLDER}/")
    return cifar.load(Path(data_dir).expanduser(), offline)


class Array(NamedTuple):
    """A published array. ``sha256``: of its first ``known`` entries (None: of all), labels as bytes."""

    shape: tuple[int, ...]
    sha256: str
    known: int | None = None


OFFICIAL = {
    "mnist": {
        "train_images": Array((60_000, 1, 28, 28), "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"),
        "train_labels": Array((60_000,), "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13"),
        "test_images": Array((10_000, 1, 28, 28), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
        "test_labels": Array((10_000,), "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5"),
    },
    "fashion_mnist": {
        "train_images": Array((60_000, 1, 28, 28), "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"),
        "train_labels": Array((60_000,), "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"),
        "test_images": Array((10_000, 1, 28, 28), "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"),
        "test_labels": Array((10_000,), "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"),
    },
    # Only the first 1,000 test images were at hand to be hashed; a longer test set is recognised by them.
    "cifar10": {
        "train_images": Array((50_000, 3, 32, 32), "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111"),
        "train_labels": Array((50_000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
        "test_images": Array(
            (10_000, 3, 32, 32), "f167149948fc8fe0b9a76ba86421e987817f98b63761ba9415c5d42664d51f03", 1_000
        ),
        "test_labels": Array((10_000,), "636a087e604331a0b9dafc94b6e9ade0c9cec72c4400d12473ccdb3e264474c1", 1_000),
    },
}
IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
DIGITS = [str(digit) for digit in range(10)]
GARMENTS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
]  # fmt: skip
OBJECTS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@dataclass(frozen=True)
class StandardDataset(ABC):
    """``torchvision``: the name of its class there, and of the folder that this downloads into.

    ``expected``: what its files are called, for the user who has them.
    """

    name: str
    torchvision: str
    classes: list[str]
    expected: str

    def load(self, root: Path, offline: str) -> ImageDataset:
        """From torchvision's files in ``root``, else NAME.npz there, else a download, else :func:`fallback`."""
        prepared = root / f"{self.name}.npz"
        files = self.find(root)
        if files is None and prepared.is_file():
            named = {part: f"{prepared}, {key}" for part, key in KEYS.items()}
            return verify(self.name, self.classes, read_npz(prepared)[0], str(prepared), named)
        if files is None:
            official = self.official
            urls = getattr(official, "mirrors", None) or [official.url]
            try:
                download_into(root, urls, self.download, partial(self.find, root))
            except Offline as reason:
                return fallback(self.name, offline, reason, f"{self.expected} or {self.name}.npz in {root}")
            files = self.find(root)
            assert files is not None
        return self.read(files)

    @property
    def official(self) -> Any:
        """torchvision's class, which knows the mirrors and the checksums."""
        from torchvision import datasets  # slow to import, and not always needed

        return getattr(datasets, self.torchvision)

    def download(self, scratch: Path) -> None:
        """Download into ``scratch`` and check; of an archive and its content, keep what is read."""
        self.official(str(scratch), download=True)
        for spare in [*scratch.rglob("*-ubyte"), *scratch.rglob("*.tar.gz")]:
            spare.unlink()

    @abstractmethod
    def find(self, root: Path) -> dict[str, Path] | None:
        """The files by name, in the first of the usual places that has them all."""

    @abstractmethod
    def read(self, files: dict[str, Path]) -> ImageDataset:
        """Raises UserError, naming the file, where one is damaged."""


class IdxDataset(StandardDataset):
    """Four idx files, packed by gzip or not."""

    def find(self, root: Path) -> dict[str, Path] | None:
        home = root / self.torchvision
        for place in (home / "raw", home, root / self.name, root, root / "raw"):
            found = {}
            for part, name in IDX_FILES.items():
                # Unpacked files first; the second spelling is what some unpackers of the archives leave.
                for spelling in (name, name.replace("-idx", ".idx"), f"{name}.gz"):
                    if (place / spelling).is_file():
                        found[part] = place / spelling
                        break
            if len(found) == len(IDX_FILES):
                return found
        return None

    def read(self, files: dict[str, Path]) -> ImageDataset:
        arrays = {part: read_idx(file) for part, file in files.items()}
        named = {part: str(file) for part, file in files.items()}
        return verify(self.name, self.classes, arrays, str(files["train_images"].parent), named)


class CifarDataset(StandardDataset):
    """torchvision's batches, which are pickles: each is opened only after its checksum was verified."""

    def find(self, root: Path) -> dict[str, Path] | None:
        for place in (root, root / self.name, root / self.torchvision):
            files = {name: place / CIFAR_FOLDER / name for name in CIFAR_FILES}
            if all(file.is_file() for file in files.values()):
                return files
        return None

    def read(self, files: dict[str, Path]) -> ImageDataset:
        from torchvision.datasets.utils import check_integrity

        official = self.official
        meta = official.meta["filename"], official.meta["md5"]
        for name, md5 in [*official.train_list, *official.test_list, meta]:
            if not check_integrity(str(files[name]), md5):
                raise UserError(f"{files[name]}: truncated or altered; delete it to download it again")
        folder = files["test_batch"].parent
        arrays: dict[str, Tensor] = {}
        for part in ("train", "test"):
            batches = official(str(folder.parent), train=part == "train")
            arrays[f"{part}_images"] = torch.from_numpy(batches.data).permute(0, 3, 1, 2)
            arrays[f"{part}_labels"] = torch.tensor(batches.targets)
        return ImageDataset.from_arrays(arrays, self.name, str(folder), self.classes)


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
            f"{file}: truncated or altered: it has {len(raw):,} bytes where its header promises {expected:,};"
            " delete it to download it again"
        )
    array = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[header:]
    return array.long() if dimensions == 1 else array.view(shape[0], 1, shape[1], shape[2])


def verify(
    name: str, classes: list[str], arrays: dict[str, Tensor], source: str, files: dict[str, str]
) -> ImageDataset:
    """The data set of ``arrays``, each compared with the official one; ``files`` names where each was read.

    An array of the official size with other bytes is damaged, as is a test array whose known part differs
    while the training arrays are genuine: UserError, naming the file. Arrays of another size are somebody's
    own: they are used, as a stand-in. A test set that is a part of the official one, or not the official one,
    gets a remark.
    """
    digests: dict[str, str] = {}
    foreign: set[str] = set()
    for part in ARRAYS:
        array, official = arrays[part], OFFICIAL[name][part]
        size = official.shape[0]
        known = size if official.known is None else official.known
        stored = array.to(torch.uint8) if part.endswith("labels") else array
        if array.shape[1:] == official.shape[1:] and known <= len(array) <= size:
            found = digest(stored[:known])
            if known == size and stored is array:
                digests[part] = found
            if found == official.sha256:
                continue
            if len(array) == size or (part.startswith("test") and not foreign):
                raise UserError(
                    f"{files[part]}: altered: these are not the official {name} bytes;"
                    " delete the file to download it again"
                )
        foreign.add(part)
    count, size = len(arrays["test_labels"]), OFFICIAL[name]["test_labels"].shape[0]
    stand_in_for, remark = None, None
    if foreign & {"train_images", "train_labels"}:
        stand_in_for, source = name, f"{source}: not the official {name}, other images of its form"
    elif foreign and count:
        remark = f"the {count:,} test images are not the official ones"
    elif count < size:
        remark = f"only {count:,} of the {size:,} test images are here"
    return ImageDataset.from_arrays(
        arrays, name, source, classes, stand_in_for=stand_in_for, remark=remark, digests=digests
    )


def fallback(name: str, offline: str, reason: Offline, expected: str) -> ImageDataset:
    """A stand-in of the same image size for the data set ``name``, marked as such.

    ``offline``: "stand_in", or "error" to raise UserError instead; ``expected``: where the real files belong.
    """
    if offline == "error":
        raise UserError(
            f"data={name}: not found and not downloaded ({reason}); put {expected}, or use data.offline=stand_in"
        )
    if name == "mnist":
        dataset = digits()
    elif name == "fashion_mnist":
        dataset = shapes(size=28, channels=1)
    else:
        dataset = shapes(size=32, channels=3)
    return replace(dataset, stand_in_for=name, source=f"stand-in for {name} ({reason}): {dataset.source}")
