"""MNIST, FashionMNIST and CIFAR-10 from files that the tests write: found, verified or replaced."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import datasets

from smallvision.core.errors import UserError
from smallvision.data import standard
from smallvision.data.arrays import KEYS
from smallvision.data.dataset import Arrays, ImageDataset, digest
from smallvision.data.standard import (
    CIFAR_FILES,
    CIFAR_FOLDER,
    CLASSES,
    Array,
    Offline,
    cifar10,
    fallback,
    mnist,
    read_idx,
)


@pytest.fixture(autouse=True)
def _few_stand_in_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "shapes", partial(standard.shapes, images=40, test_images=10))


def official(arrays: dict[str, np.ndarray]) -> dict[str, Array]:
    """The table that makes these arrays, as a file holds them, the official ones."""
    table = {}
    for part, array in arrays.items():
        tensor = torch.from_numpy(array)
        if part.endswith("labels"):
            tensor = tensor.reshape(-1)
        else:
            tensor = tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
        table[part] = Array(tuple(tensor.shape), digest(tensor))
    return table


# Four idx files ------------------------------------------------------------------------------------------

SHAPES = {
    "train_images": (30, 28, 28), "train_labels": (30,), "test_images": (20, 28, 28), "test_labels": (20,),
}  # fmt: skip


def some_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        part: rng.integers(0, 10 if part.endswith("labels") else 256, shape, dtype=np.uint8)
        for part, shape in SHAPES.items()
    }


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, arrays: dict[str, np.ndarray], packed: bool = False) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, array in arrays.items():
        raw = idx_bytes(array)
        files[part] = folder / (standard.IDX_FILES[part] + (".gz" if packed else ""))
        files[part].write_bytes(gzip.compress(raw) if packed else raw)
    return files


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small arrays which, for the test, are the official MNIST."""
    arrays = some_arrays()
    monkeypatch.setitem(standard.OFFICIAL, "mnist", official(arrays))
    return arrays


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "mnist", ".", "raw"])
def test_the_official_files_are_found_in_the_usual_places(
    tmp_path: Path, arrays: dict[str, np.ndarray], place: str, packed: bool
) -> None:
    write_idx(tmp_path / place, arrays, packed)
    data = mnist(str(tmp_path))
    assert data.stand_in_for is None
    assert data.remark is None
    assert data.shape == (1, 28, 28)
    assert np.array_equal(data.train_images[:, 0], arrays["train_images"])
    assert data.train_labels.dtype == torch.int64
    assert data.test_labels.tolist() == arrays["test_labels"].tolist()


def test_packed_and_unpacked_files_give_the_same_data(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write_idx(tmp_path / "a", arrays)
    write_idx(tmp_path / "b", arrays, packed=True)
    assert mnist(str(tmp_path / "a")).fingerprint == mnist(str(tmp_path / "b")).fingerprint


def test_a_folder_may_mix_packed_files_unpacked_ones_and_the_other_spelling(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    packed = write_idx(tmp_path, arrays, packed=True)
    unpacked = write_idx(tmp_path, {part: arrays[part] for part in ("train_labels", "test_labels")})
    packed["train_labels"].unlink()
    unpacked["test_labels"].rename(tmp_path / "t10k-labels.idx1-ubyte")
    assert mnist(str(tmp_path)).stand_in_for is None


def test_a_read_only_folder_is_read_and_left_as_it_was(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    files = write_idx(tmp_path / "MNIST" / "raw", arrays, packed=True)
    folders = [tmp_path / "MNIST" / "raw", tmp_path / "MNIST", tmp_path]
    for path in [*files.values(), *folders]:
        path.chmod(0o444 if path.is_file() else 0o555)
    before = sorted(tmp_path.rglob("*"))
    try:
        assert len(mnist(str(tmp_path)).train_labels) == 30
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        for path in folders:
            path.chmod(0o755)


def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    file = tmp_path / "t10k-labels-idx1-ubyte"
    raw = idx_bytes(arrays["test_labels"])
    for length in range(len(raw)):
        file.write_bytes(raw[:length])
        with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
            read_idx(file)


@pytest.mark.parametrize("length", [0, 3, 4, 5, 9, 15, 16, 17, 500, 30 * 784 + 15])
def test_an_image_file_cut_off_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], length: int) -> None:
    files = write_idx(tmp_path, arrays)
    files["train_images"].write_bytes(files["train_images"].read_bytes()[:length])
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        mnist(str(tmp_path))


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_packed_file_cut_off_is_refused_by_name(
    tmp_path: Path, arrays: dict[str, np.ndarray], fraction: float
) -> None:
    file = write_idx(tmp_path, arrays, packed=True)["train_images"]
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * fraction)])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz"):
        mnist(str(tmp_path))


def test_a_changed_byte_anywhere_in_a_packed_file_never_gives_other_data(tmp_path: Path) -> None:
    labels = np.arange(40, dtype=np.uint8) % 10
    file = tmp_path / "train-labels-idx1-ubyte.gz"
    raw = gzip.compress(idx_bytes(labels), mtime=0)
    refused = 0
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 0x55
        file.write_bytes(changed)
        try:  # a gzip header has bytes that mean nothing, such as the time
            assert read_idx(file).tolist() == labels.tolist()
        except UserError as error:
            refused += str(file) in str(error)
    assert refused >= len(raw) - 10


@pytest.mark.parametrize("head", [b"\x89PNG", b"\0\0\x09\x03", b"\0\0\x08\x02", b"\x01\0\x08\x03"])
def test_another_kind_of_file_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], head: bytes) -> None:
    file = write_idx(tmp_path, arrays)["train_images"]
    file.write_bytes(head + file.read_bytes()[4:])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte: not an idx file"):
        mnist(str(tmp_path))


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (2**16, 2**16, 2**32 - 1)])
def test_a_header_that_promises_the_impossible_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(struct.pack(">I3I", 0x803, *shape))
    with pytest.raises(UserError, match="truncated or altered"):
        read_idx(file)


@pytest.mark.parametrize("part", Arrays._fields)
def test_official_sizes_with_one_altered_byte_are_refused_and_the_file_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], part: str
) -> None:
    arrays[part].reshape(-1)[7] ^= 1
    files = write_idx(tmp_path, arrays)
    with pytest.raises(UserError, match="altered") as refused:
        mnist(str(tmp_path))
    assert str(files[part]) in str(refused.value)


def test_another_number_of_images_is_used_and_marked_as_a_stand_in(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    write_idx(tmp_path, {part: array[:11] for part, array in arrays.items()})
    data = mnist(str(tmp_path))
    assert len(data.train_images) == 11
    assert data.stand_in_for == "mnist"
    assert "not the official" in data.source


def test_fashion_mnist_is_not_read_from_mnist_files(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw", some_arrays(seed=1))
    write_idx(tmp_path / "MNIST" / "raw", arrays)
    data = standard.fashion_mnist(str(tmp_path))
    assert data.train_labels.tolist() == some_arrays(seed=1)["train_labels"].tolist()
    assert data.classes[0] == "T-shirt/top"
    assert data.stand_in_for == "fashion_mnist"


def test_the_table_has_every_array_of_all_three() -> None:
    for name, train in (("mnist", 60_000), ("fashion_mnist", 60_000), ("cifar10", 50_000)):
        table = standard.OFFICIAL[name]
        assert {part: array.shape[0] for part, array in table.items()} == {
            "train_images": train, "train_labels": train, "test_images": 10_000, "test_labels": 10_000,
        }  # fmt: skip
        assert all(len(array.sha256) == 64 for array in table.values())
    digests = [array.sha256 for table in standard.OFFICIAL.values() for array in table.values()]
    assert len(set(digests)) == len(digests)


# CIFAR-10's batches --------------------------------------------------------------------------------------

PER_BATCH = 4


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pickled batches of four images which torchvision, for the test, takes for the official ones."""
    rng = np.random.default_rng(0)
    files = {}
    for name in CIFAR_FILES[:-1]:
        images = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        labels = [int(label) for label in rng.integers(0, 10, PER_BATCH)]
        files[name] = pickle.dumps({"data": images, "labels": labels})
    files["batches.meta"] = pickle.dumps({"label_names": CLASSES["cifar10"]})
    known = datasets.CIFAR10
    monkeypatch.setattr(known, "train_list", [[name, md5(files[name])] for name in CIFAR_FILES[:5]])
    monkeypatch.setattr(known, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": md5(files["batches.meta"])})
    monkeypatch.setattr(known, "url", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return files


def write_batches(root: Path, files: dict[str, bytes]) -> Path:
    (root / CIFAR_FOLDER).mkdir(parents=True)
    for name, content in files.items():
        (root / CIFAR_FOLDER / name).write_bytes(content)
    return root / CIFAR_FOLDER


@pytest.mark.parametrize("place", [".", "cifar10", "CIFAR10"])
def test_the_batches_are_found_in_the_usual_places(tmp_path: Path, batches: dict[str, bytes], place: str) -> None:
    write_batches(tmp_path / place, batches)
    data = cifar10(str(tmp_path))
    first, test = pickle.loads(batches["data_batch_1"]), pickle.loads(batches["test_batch"])
    assert data.train_images.shape == (5 * PER_BATCH, 3, 32, 32)
    assert np.array_equal(data.train_images[:PER_BATCH].flatten(1), first["data"])
    assert data.train_labels[:PER_BATCH].tolist() == first["labels"]
    assert np.array_equal(data.test_images.flatten(1), test["data"])
    assert data.test_labels.tolist() == test["labels"]
    assert data.classes == CLASSES["cifar10"]
    assert data.stand_in_for is None


class Hostile:
    """Unpickling this makes a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", CIFAR_FILES)
def test_an_altered_batch_is_refused_by_name_before_it_is_unpickled(
    tmp_path: Path, batches: dict[str, bytes], name: str
) -> None:
    mark = tmp_path / "mark"
    folder = write_batches(tmp_path, batches)
    (folder / name).write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(UserError) as refused:
        cifar10(str(tmp_path))
    assert str(refused.value).startswith(f"{folder / name}: truncated or altered")
    assert not mark.exists()
    pickle.loads((folder / name).read_bytes())  # the trap does work
    assert mark.exists()


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_a_batch_cut_off_is_refused_by_name(tmp_path: Path, batches: dict[str, bytes], length: int) -> None:
    folder = write_batches(tmp_path, batches)
    (folder / "data_batch_3").write_bytes(batches["data_batch_3"][:length])
    with pytest.raises(UserError, match="data_batch_3: truncated or altered"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize("missing", [None, "batches.meta", "data_batch_5"])
def test_without_all_batches_and_without_a_network_there_is_a_stand_in_or_a_refusal(
    tmp_path: Path, batches: dict[str, bytes], missing: str | None
) -> None:
    if missing:
        (write_batches(tmp_path, batches) / missing).unlink()
    data = cifar10(str(tmp_path))
    assert (data.stand_in_for, data.shape) == ("cifar10", (3, 32, 32))
    with pytest.raises(UserError, match=r"data=cifar10: not found and not downloaded"):
        cifar10(str(tmp_path), offline="error")


def test_the_archive_is_downloaded_unpacked_and_not_kept(
    tmp_path: Path, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "cifar.tar.gz", "w:gz") as archive:
        for name, content in batches.items():
            entry = tarfile.TarInfo(f"{CIFAR_FOLDER}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/cifar.tar.gz")
        monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5((served / "cifar.tar.gz").read_bytes()))
        data = cifar10(str(tmp_path / "data"), offline="error")
        server.shutdown()
    assert data.stand_in_for is None
    assert len(data.train_labels) == 5 * PER_BATCH
    kept = {path.name for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert kept - {".download.lock"} == set(CIFAR_FILES)


# Prepared npz files --------------------------------------------------------------------------------------


def keras(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shape, column = ((28, 28), ()) if name == "mnist" else ((32, 32, 3), (1,))
    return {
        "x_train": rng.integers(0, 256, (12, *shape), dtype=np.uint8),
        "y_train": rng.integers(0, 10, (12, *column), dtype=np.uint8),
        "x_test": rng.integers(0, 256, (6, *shape), dtype=np.uint8),
        "y_test": rng.integers(0, 10, (6, *column), dtype=np.uint8),
    }


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_prepared_npz_in_the_keras_layout_serves_as_well_and_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arrays = keras(name)
    monkeypatch.setitem(standard.OFFICIAL, name, official(dict(zip(Arrays._fields, arrays.values(), strict=True))))
    np.savez(tmp_path / f"{name}.npz", **arrays)
    data = getattr(standard, name)(str(tmp_path))
    assert data.stand_in_for is None
    assert np.array_equal(data.train_images.permute(0, 2, 3, 1).squeeze(3), arrays["x_train"])
    assert data.test_labels.tolist() == arrays["y_test"].reshape(-1).tolist()
    for key in KEYS:
        altered = {**arrays, key: arrays[key].copy()}
        altered[key].reshape(-1)[5] ^= 1
        np.savez(tmp_path / f"{name}.npz", **altered)
        with pytest.raises(UserError, match=rf"{name}\.npz, {key}: altered"):
            getattr(standard, name)(str(tmp_path))


def test_an_npz_of_other_images_is_marked_as_a_stand_in(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **keras("cifar10"))
    assert cifar10(str(tmp_path)).stand_in_for == "cifar10"


# Verification against the table --------------------------------------------------------------------------


def genuine(monkeypatch: pytest.MonkeyPatch, known_test: int | None = None) -> dict[str, Tensor]:
    """A made-up official data set "toy" of 8 + 6 images; of the test set ``known_test`` are in the table."""
    generator = torch.Generator().manual_seed(0)
    arrays, table = {}, {}
    for part, count in (("train", 8), ("test", 6)):
        images = torch.randint(0, 256, (count, 1, 3, 3), generator=generator).to(torch.uint8)
        labels = torch.arange(count) % 4
        known = None if part == "train" else known_test
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
        table[f"{part}_images"] = Array((count, 1, 3, 3), digest(images[:known]), known)
        table[f"{part}_labels"] = Array((count,), digest(labels[:known].to(torch.uint8)), known)
    monkeypatch.setitem(standard.OFFICIAL, "toy", table)
    monkeypatch.setitem(standard.CLASSES, "toy", list("abcd"))
    return arrays


def verify(arrays: dict[str, Tensor]) -> ImageDataset:
    return standard.verify("toy", Arrays(**arrays), "somewhere", [f"file-of-{part}" for part in Arrays._fields])


def cut(arrays: dict[str, Tensor], part: str, count: int) -> dict[str, Tensor]:
    return {name: array[:count] if name.startswith(part) else array for name, array in arrays.items()}


def test_official_arrays_get_no_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    data = verify(genuine(monkeypatch))
    assert (data.stand_in_for, data.remark, data.source) == (None, None, "somewhere")


def test_the_fingerprint_is_the_same_with_and_without_the_digests_already_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrays = genuine(monkeypatch)
    data = verify(arrays)
    assert data.digests
    assert data.fingerprint == ImageDataset("toy", "elsewhere", list("abcd"), *Arrays(**arrays)).fingerprint


@pytest.mark.parametrize("part", Arrays._fields)
@pytest.mark.parametrize("where", [0, -1])
def test_one_altered_number_is_refused_and_its_file_named(
    monkeypatch: pytest.MonkeyPatch, part: str, where: int
) -> None:
    arrays = genuine(monkeypatch)
    arrays[part].view(-1)[where] ^= 1
    with pytest.raises(UserError, match=f"file-of-{part}: altered"):
        verify(arrays)


@pytest.mark.parametrize("count", [1, 7])
def test_another_number_of_training_images_is_a_stand_in(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    data = verify(cut(genuine(monkeypatch), "train", count))
    assert data.stand_in_for == "toy"
    assert "not the official toy" in data.source


def test_images_of_another_size_are_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = genuine(monkeypatch)
    arrays |= {part: arrays[part][..., :2] for part in ("train_images", "test_images")}
    assert verify(arrays).stand_in_for == "toy"


@pytest.mark.parametrize(
    ("known", "count", "remark"),
    [
        (3, 4, "only 4 of the 6 test images are here"),
        (3, 2, "the 2 test images are not the official ones"),  # fewer than the table can recognise
        (None, 0, "only 0 of the 6 test images are here"),
    ],
)
def test_a_shorter_test_set_gets_a_remark(
    monkeypatch: pytest.MonkeyPatch, known: int | None, count: int, remark: str
) -> None:
    data = verify(cut(genuine(monkeypatch, known), "test", count))
    assert (data.stand_in_for, data.remark) == (None, remark)


def test_an_altered_known_part_of_a_shorter_test_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = cut(genuine(monkeypatch, known_test=3), "test", 4)
    arrays["test_images"][1, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="file-of-test_images: altered"):
        verify(arrays)


def test_a_users_own_images_may_have_a_test_set_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    own = cut(cut(genuine(monkeypatch, known_test=3), "train", 5), "test", 4)
    own["test_images"] = 255 - own["test_images"]
    assert verify(own).stand_in_for == "toy"


# Stand-ins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "replaced_by"),
    [
        ("mnist", (1, 28, 28), "digits"),
        ("fashion_mnist", (1, 28, 28), "shapes"),
        ("cifar10", (3, 32, 32), "shapes"),
    ],
)
def test_a_stand_in_has_the_shape_of_the_real_images_and_names_both(
    name: str, shape: tuple[int, int, int], replaced_by: str
) -> None:
    data = fallback(name, "stand_in", Offline("no network: down"), "its files in the attic")
    assert data.shape == shape
    assert len(data.classes) == 10
    assert data.name == replaced_by
    assert data.stand_in_for == name
    assert data.source.startswith(f"stand-in for {name} (no network: down): ")


def test_a_stand_in_can_be_refused_with_the_reason_and_the_mend() -> None:
    with pytest.raises(UserError) as refused:
        fallback("mnist", "error", Offline("no network: down"), "its files in the attic")
    for part in ("data=mnist", "no network: down", "put its files in the attic", "data.offline=stand_in"):
        assert part in str(refused.value)
