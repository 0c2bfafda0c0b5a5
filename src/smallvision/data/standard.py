"""MNIST, FashionMNIST and CIFAR-10: found in ``data_dir``, else downloaded, else replaced by a stand-in.

A download happens once, is complete or not at all, and is given up within seconds where there is no network.
"""

import errno
import gzip
import http.client
import math
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.arrays import KEYS, read_npz
from smallvision.data.dataset import Arrays, ImageDataset, digest
from smallvision.data.digits import digits
from smallvision.data.shapes import shapes


def mnist(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """MNIST: 60,000 + 10,000 handwritten digits, 1 x 28 x 28 (Y. LeCun, C. Cortes, C. Burges)."""
    return load("mnist", Path(data_dir).expanduser(), offline)


def fashion_mnist(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """FashionMNIST: 60,000 + 10,000 garments, 1 x 28 x 28 (H. Xiao et al., arXiv:1708.07747)."""
    return load("fashion_mnist", Path(data_dir).expanduser(), offline)


def cifar10(data_dir: str, offline: str = "stand_in") -> ImageDataset:
    """CIFAR-10: 50,000 + 10,000 photographs, 3 x 32 x 32 (A. Krizhevsky, 2009)."""
    return load("cifar10", Path(data_dir).expanduser(), offline)


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
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}  # its classes and folders
CLASSES = {
    "mnist": list("0123456789"),
    "fashion_mnist": [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ],
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}  # fmt: skip
PROBE_SECONDS = 5.0
STALL_SECONDS = 15.0


class Offline(Exception):
    """The files could not be downloaded; the message gives the reason briefly."""


def load(name: str, root: Path, offline: str) -> ImageDataset:
    """From torchvision's files in ``root``, else NAME.npz there, else a download, else :func:`fallback`."""
    prepared = root / f"{name}.npz"
    files = find(name, root)
    if files is None and prepared.is_file():
        return verify(name, read_npz(prepared)[0], str(prepared), [f"{prepared}, {key}" for key in KEYS])
    if files is None:
        try:
            files = download(name, root)
        except Offline as reason:
            own = f"{CIFAR_FOLDER}/" if name == "cifar10" else f"{TORCHVISION[name]}/raw with its four idx files"
            return fallback(name, offline, reason, f"{own} or {name}.npz in {root}")
    if name == "cifar10":
        return read_batches(files)
    arrays = Arrays(*(read_idx(file) for file in files.values()))
    return verify(name, arrays, str(files["train_images"].parent), [str(file) for file in files.values()])


def find(name: str, root: Path) -> dict[str, Path] | None:
    """The files by name, in the first of the usual folders that has them all."""
    home = TORCHVISION[name]
    if name == "cifar10":
        folders = [f"{folder}/{CIFAR_FOLDER}" for folder in (".", name, home)]
        spellings = {file: [file] for file in CIFAR_FILES}
    else:
        folders = [f"{home}/raw", home, name, ".", "raw"]
        # Unpacked files first; the second spelling is what some unpackers of the archives leave.
        spellings = {part: [file, file.replace("-idx", ".idx"), f"{file}.gz"] for part, file in IDX_FILES.items()}
    for folder in folders:
        found = {
            key: root / folder / spelling
            for key, names in spellings.items()
            for spelling in reversed(names)
            if (root / folder / spelling).is_file()
        }
        if len(found) == len(spellings):
            return found
    return None


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


def read_batches(files: dict[str, Path]) -> ImageDataset:
    """CIFAR-10 from torchvision's batches, which are pickles: none is opened before all checksums are verified.

    Raises UserError, naming the file, where one is damaged.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]:
        if not check_integrity(str(files[name]), md5):
            raise UserError(f"{files[name]}: truncated or altered; delete it to download it again")
    folder = files["test_batch"].parent
    arrays: list[Tensor] = []
    for train in (True, False):
        batches = CIFAR10(str(folder.parent), train=train)
        arrays += [torch.from_numpy(batches.data).permute(0, 3, 1, 2), torch.tensor(batches.targets)]
    return ImageDataset("cifar10", str(folder), CLASSES["cifar10"], *Arrays(*arrays))


def verify(name: str, arrays: Arrays, source: str, files: Sequence[str]) -> ImageDataset:
    """The data set of ``arrays``, each compared with the official one; ``files`` names where each was read.

    An array of the official size with other bytes is damaged, as is a test array whose known part differs
    while the training arrays are genuine: UserError, naming the file. Arrays of another size are somebody's
    own: they are used, as a stand-in. A test set that is a part of the official one, or not the official one,
    gets a remark.
    """
    digests: dict[str, str] = {}
    foreign: set[str] = set()
    for part, array, file in zip(Arrays._fields, arrays, files, strict=True):
        official = OFFICIAL[name][part]
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
                    f"{file}: altered: these are not the official {name} bytes; delete the file to download it again"
                )
        foreign.add(part)
    count, size = len(arrays.test_labels), OFFICIAL[name]["test_labels"].shape[0]
    stand_in_for, remark = None, None
    if foreign & {"train_images", "train_labels"}:
        stand_in_for, source = name, f"{source}: not the official {name}, other images of its form"
    elif foreign and count:
        remark = f"the {count:,} test images are not the official ones"
    elif count < size:
        remark = f"only {count:,} of the {size:,} test images are here"
    return ImageDataset(name, source, CLASSES[name], *arrays, stand_in_for=stand_in_for, remark=remark, digests=digests)


def fallback(name: str, offline: str, reason: Offline, expected: str) -> ImageDataset:
    """A stand-in of the same image size for the data set ``name``, marked as such.

    ``offline``: "stand_in", or "error" to raise UserError instead; ``expected``: where the real files belong.
    """
    if offline == "error":
        raise UserError(
            f"data={name}: not found and not downloaded ({reason}); put {expected}, or use data.offline=stand_in"
        )
    channels, size = OFFICIAL[name]["train_images"].shape[1:3]
    dataset = digits() if name == "mnist" else shapes(size=size, channels=channels)
    return replace(dataset, stand_in_for=name, source=f"stand-in for {name} ({reason}): {dataset.source}")


# Downloads -----------------------------------------------------------------------------------------------


def download(name: str, root: Path) -> dict[str, Path]:
    """The files, downloaded into ``root`` by torchvision, which knows the mirrors and the checksums."""
    from torchvision import datasets  # slow to import, and not always needed

    official = getattr(datasets, TORCHVISION[name])
    urls = getattr(official, "mirrors", None) or [official.url]
    download_into(root, urls, partial(_download_by, official), partial(find, name, root))
    files = find(name, root)
    assert files is not None
    return files


def _download_by(official: Callable[..., object], scratch: Path) -> None:
    """By torchvision's class; of an archive and its content, what is read is kept."""
    official(str(scratch), download=True)
    for spare in [*scratch.rglob("*-ubyte"), *scratch.rglob("*.tar.gz")]:
        spare.unlink()


def download_into(
    folder: Path, urls: Sequence[str], get: Callable[[Path], None], complete: Callable[[], object]
) -> None:
    """Fill ``folder`` by ``get(scratch)`` unless ``complete()``; files appear in it only when complete.

    ``get`` downloads and checks the files in a scratch folder, from which each is then renamed into ``folder``.
    One process downloads, under a lock, while others wait and then find the files. ``urls``, the mirrors, are
    probed first, so that a dead network costs seconds.

    Raises Offline where the files cannot be downloaded, UserError where ``folder`` cannot be written.
    """
    try:
        above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if above.is_dir() and os.access(above, os.W_OK):
            _probe(urls)  # before a folder is made for what does not come
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except Offline:
        if not complete():
            raise
        return
    except OSError as error:
        raise UserError(
            f"data_dir={folder}: cannot be written ({error.strerror}), so nothing can be downloaded there;"
            " use data_dir=FOLDER with one that can"
        ) from None
    stall_before = socket.getdefaulttimeout()
    try:
        with FileLock(folder / ".download.lock"):
            if complete():
                return
            socket.setdefaulttimeout(STALL_SECONDS)
            get(scratch)
            for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
                target = folder / file.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    except Offline:
        if not complete():
            raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise UserError(f"data_dir={folder}: {error.strerror}; use data_dir=FOLDER with room") from None
        raise Offline(f"the download failed: {_reason(error)}") from None
    # What torchvision's downloads raise; HTTPException: the answer is not HTTP, or is cut off.
    except (RuntimeError, EOFError, http.client.HTTPException) as error:
        raise Offline(f"the download failed: {_reason(error)}") from None
    finally:
        socket.setdefaulttimeout(stall_before)
        shutil.rmtree(scratch, ignore_errors=True)


def _probe(urls: Sequence[str]) -> None:
    """Raise Offline unless something answers at one of ``urls``, through the user's proxy if there is one.

    In threads, because looking up a host's name has no timeout.
    """
    outcomes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for url in urls:
        threading.Thread(target=_request_head, args=(url, outcomes), daemon=True).start()
    deadline = time.monotonic() + PROBE_SECONDS
    failure: str | None = None
    for _ in urls:
        try:
            failure = outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if failure is None:
            return
    raise Offline(f"no network: {failure}" if failure else f"no answer within {PROBE_SECONDS:g} s")


def _request_head(url: str, outcomes: "queue.SimpleQueue[str | None]") -> None:
    """Put None where anything answers at ``url``, else the reason why not."""
    failure = None
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # an error is an answer
    except (OSError, ValueError, http.client.HTTPException) as error:
        failure = _reason(error)
    outcomes.put(failure)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    return text.strip().splitlines()[0]
