"""MNIST and FashionMNIST from idx files that the tests write."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.data import standard as idx
from smallvision.data.dataset import digest
from smallvision.data.standard import Array

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


def write(place: Path, arrays: dict[str, np.ndarray], packed: bool = False) -> dict[str, Path]:
    place.mkdir(parents=True, exist_ok=True)
    files = {}
    for part, array in arrays.items():
        raw = idx_bytes(array)
        files[part] = place / (idx.FILES[part] + (".gz" if packed else ""))
        files[part].write_bytes(gzip.compress(raw) if packed else raw)
    return files


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small arrays which, for the test, are the official MNIST."""
    arrays = some_arrays()
    table = {}
    for part, array in arrays.items():
        shape = (len(array), 1, *array.shape[1:]) if array.ndim == 3 else array.shape
        table[part] = Array(shape, digest(torch.from_numpy(array)), len(array))
    monkeypatch.setattr(idx, "MNIST", table)
    return arrays


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "mnist", ".", "raw"])
def test_the_official_files_are_found_wherever_they_usually_lie(
    tmp_path: Path, arrays: dict[str, np.ndarray], place: str, packed: bool
) -> None:
    write(tmp_path / place, arrays, packed)
    data = idx.mnist(str(tmp_path))
    assert data.stand_in_for is None
    assert data.remark is None
    assert data.shape == (1, 28, 28)
    assert np.array_equal(data.train_images[:, 0], arrays["train_images"])
    assert data.train_labels.dtype == torch.int64
    assert data.test_labels.tolist() == arrays["test_labels"].tolist()


def test_packed_and_unpacked_files_give_the_same_data(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write(tmp_path / "a", arrays)
    write(tmp_path / "b", arrays, packed=True)
    one, other = idx.mnist(str(tmp_path / "a")), idx.mnist(str(tmp_path / "b"))
    assert one.fingerprint == other.fingerprint


def test_a_folder_may_mix_packed_files_unpacked_ones_and_the_other_spelling(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    packed = write(tmp_path, arrays, packed=True)
    plain = write(tmp_path, {part: arrays[part] for part in ("train_labels", "test_labels")})
    packed["train_labels"].unlink()
    plain["test_labels"].rename(tmp_path / "t10k-labels.idx1-ubyte")
    assert idx.mnist(str(tmp_path)).stand_in_for is None


def test_a_read_only_folder_is_read_and_left_as_it_was(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    files = write(tmp_path / "MNIST" / "raw", arrays, packed=True)
    folders = [tmp_path / "MNIST" / "raw", tmp_path / "MNIST", tmp_path]
    for path in [*files.values(), *folders]:
        path.chmod(0o444 if path.is_file() else 0o555)
    before = sorted(tmp_path.rglob("*"))
    try:
        assert len(idx.mnist(str(tmp_path)).train_labels) == 30
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
            idx.read_idx(file)


@pytest.mark.parametrize("length", [0, 3, 4, 5, 9, 15, 16, 17, 500, 30 * 784 + 15])
def test_an_image_file_cut_off_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], length: int) -> None:
    files = write(tmp_path, arrays)
    files["train_images"].write_bytes(files["train_images"].read_bytes()[:length])
    with pytest.raises(UserError, match="train-images-idx3-ubyte"):
        idx.mnist(str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_packed_file_cut_off_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], share: float) -> None:
    file = write(tmp_path, arrays, packed=True)["train_images"]
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz"):
        idx.mnist(str(tmp_path))


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
            assert idx.read_idx(file).tolist() == labels.tolist()
        except UserError as refusal:
            refused += str(file) in str(refusal)
    assert refused >= len(raw) - 10


@pytest.mark.parametrize("head", [b"\x89PNG", b"\0\0\x09\x03", b"\0\0\x08\x02", b"\x01\0\x08\x03"])
def test_another_kind_of_file_is_refused_by_name(tmp_path: Path, arrays: dict[str, np.ndarray], head: bytes) -> None:
    file = write(tmp_path, arrays)["train_images"]
    file.write_bytes(head + file.read_bytes()[4:])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte: not an idx file"):
        idx.mnist(str(tmp_path))


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (2**16, 2**16, 2**32 - 1)])
def test_a_header_that_claims_the_impossible_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(struct.pack(">I3I", 0x803, *shape))
    with pytest.raises(UserError, match="truncated or altered"):
        idx.read_idx(file)


@pytest.mark.parametrize("part", list(SHAPES))
def test_official_sizes_with_one_altered_byte_are_refused_and_the_file_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], part: str
) -> None:
    arrays[part].reshape(-1)[7] ^= 1
    files = write(tmp_path, arrays)
    with pytest.raises(UserError) as refused:
        idx.mnist(str(tmp_path))
    assert str(files[part]) in str(refused.value)
    assert "altered" in str(refused.value)


def test_images_of_another_number_are_used_and_said_to_be_a_stand_in(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    write(tmp_path, {part: array[:11] for part, array in arrays.items()})
    data = idx.mnist(str(tmp_path))
    assert len(data.train_images) == 11
    assert data.stand_in_for == "mnist"
    assert "not the official" in data.source


def test_fashion_mnist_is_not_taken_from_mnist_files(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    write(tmp_path / "FashionMNIST" / "raw", some_arrays(seed=1))
    write(tmp_path / "MNIST" / "raw", arrays)
    data = idx.fashion_mnist(str(tmp_path))
    assert data.train_labels.tolist() == some_arrays(seed=1)["train_labels"].tolist()
    assert data.classes[0] == "T-shirt/top"
    assert data.stand_in_for == "fashion_mnist"


def test_the_real_tables_know_every_array() -> None:
    for table in (idx.MNIST, idx.FASHION_MNIST):
        assert {part: array.shape[0] for part, array in table.items()} == {
            "train_images": 60_000, "train_labels": 60_000, "test_images": 10_000, "test_labels": 10_000,
        }  # fmt: skip
        assert all(len(array.sha256) == 64 for array in table.values())
    assert idx.MNIST["train_images"].sha256 != idx.FASHION_MNIST["train_images"].sha256


def test_a_prepared_npz_serves_as_the_official_data(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    keras = {
        "x_train": arrays["train_images"], "y_train": arrays["train_labels"],
        "x_test": arrays["test_images"], "y_test": arrays["test_labels"],
    }  # fmt: skip
    np.savez(tmp_path / "mnist.npz", **keras)
    assert idx.mnist(str(tmp_path)).stand_in_for is None
    keras["x_test"][3, 4, 5] ^= 8
    np.savez(tmp_path / "mnist.npz", **keras)
    with pytest.raises(UserError, match=r"mnist\.npz, x_test: altered"):
        idx.mnist(str(tmp_path))
