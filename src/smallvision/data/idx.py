"""`data=mnist` and `data=fashion_mnist`: four idx files each, packed or unpacked."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smallvision.data import npz
from smallvision.data.download import Offline, download_into
from smallvision.data.official import Array, held_against
from smallvision.data.record import ImageData
from smallvision.data.standin import stand_in
from smallvision.errors import Refusal

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
    "train_labels": Array(
        (60_000,), "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13", 60_000
    ),
    "test_images": Array(
        (10_000, 1, 28, 28), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161", 10_000
    ),
    "test_labels": Array(
        (10_000,), "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5", 10_000
    ),
}
FASHION_MNIST = {
    "train_images": Array(
        (60_000, 1, 28, 28), "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012", 60_000
    ),
    "train_labels": Array(
        (60_000,), "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7", 60_000
    ),
    "test_images": Array(
        (10_000, 1, 28, 28), "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a", 10_000
    ),
    "test_labels": Array(
        (10_000,), "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9", 10_000
    ),
}
GARMENTS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
]  # fmt: skip


def mnist(data_dir: str, offline: str = "stand_in") -> ImageData:
    """MNIST: 60,000 + 10,000 handwritten digits, 1 x 28 x 28 (Y. LeCun, C. Cortes, C. Burges)."""
    return _load("mnist", "MNIST", [str(digit) for digit in range(10)], MNIST, data_dir, offline)


def fashion_mnist(data_dir: str, offline: str = "stand_in") -> ImageData:
    """FashionMNIST: 60,000 + 10,000 garments, 1 x 28 x 28 (H. Xiao et al., arXiv:1708.07747)."""
    return _load("fashion_mnist", "FashionMNIST", GARMENTS, FASHION_MNIST, data_dir, offline)


def _load(
    name: str, folder: str, classes: list[str], official: dict[str, Array], data_dir: str, offline: str
) -> ImageData:
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

    Raises Refusal, naming the file, where it is truncated, altered or another kind of file.
    """
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal(f"{file}: truncated or altered ({error}); delete it to download it again") from None
    dimensions = raw[3] if len(raw) >= 4 else 0
    if raw[:3] != b"\0\0\x08" or dimensions not in (1, 3):
        raise Refusal(f"{file}: not an idx file of bytes; delete it to download it again")
    header = 4 + 4 * dimensions
    shape = [int(length) for length in np.frombuffer(raw[4:header].ljust(header - 4, b"\0"), ">u4")]
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise Refusal(
            f"{file}: truncated or altered: it has {len(raw):,} bytes and says it has {expected:,};"
            " delete it to download it again"
        )
    array = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[header:]
    return array.long() if dimensions == 1 else array.view(shape[0], 1, shape[1], shape[2])
