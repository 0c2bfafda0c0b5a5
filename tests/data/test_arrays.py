"""npz files in the Keras layout and folders of npy files, read or mapped, friendly and hostile."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.data import arrays as module
from smallvision.data.arrays import arrays
from smallvision.data.dataset import ImageDataset
from smallvision.data.memory_map import find_map

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(file: Path, **changes: Any) -> str:
    """An npz with training images and labels, with ``changes`` added or instead; None leaves a key out."""
    stored = {"x_train": IMAGES, "y_train": LABELS, **changes}
    np.savez(file, **{key: value for key, value in stored.items() if value is not None})
    return str(file)


@pytest.fixture(params=["read", "mapped"])
def file(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an npz file may be put; it is read, or its images are mapped."""
    monkeypatch.setattr(module, "MAP_FROM", 0 if request.param == "mapped" else 2**30)
    return tmp_path / "own.npz"


def is_mapped(images: torch.Tensor) -> bool:
    return find_map(images.data_ptr()) is not None


def test_colour_images_come_out_channels_first(file: Path) -> None:
    data = arrays(save(file, x_test=IMAGES[:2], y_test=LABELS[:2]))
    assert data.train_images.dtype == torch.uint8
    assert np.array_equal(data.train_images, IMAGES.transpose(0, 3, 1, 2))
    assert np.array_equal(data.test_images, IMAGES[:2].transpose(0, 3, 1, 2))
    assert data.train_labels.tolist() == LABELS.tolist()
    assert data.name == "own"


def test_grey_images_need_no_channel_dimension(file: Path) -> None:
    data = arrays(save(file, x_train=IMAGES[..., 0]))
    assert data.shape == (1, 5, 4)
    assert np.array_equal(data.train_images[:, 0], IMAGES[..., 0])


def test_images_of_one_pixel_are_images(file: Path) -> None:
    assert arrays(save(file, x_train=IMAGES[:, :1, :1])).shape == (3, 1, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint32", ">i4"])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_labels_may_be_any_integers_in_a_row_or_a_column(file: Path, dtype: str, shape: tuple[int]) -> None:
    data = arrays(save(file, y_train=LABELS.astype(dtype).reshape(shape)))
    assert data.train_labels.dtype == torch.int64
    assert data.train_labels.tolist() == LABELS.tolist()


def test_without_test_arrays_the_test_set_is_empty(file: Path) -> None:
    data = arrays(save(file))
    assert data.test_images.shape == (0, 3, 5, 4)
    assert len(data.test_labels) == 0


def test_classes_are_named_by_the_file_or_else_numbered(file: Path) -> None:
    assert arrays(save(file, classes=np.array(["cat", "dog", "cow"]))).classes == ["cat", "dog", "cow"]
    assert arrays(save(file)).classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "has no x_train"),
        ({"y_train": None}, "has no y_train"),
        ({"x_test": IMAGES}, "x_test and y_test go together"),
        ({"y_test": LABELS}, "x_test and y_test go together"),
        ({"x_train": IMAGES / 255}, "x_train: images must be uint8"),
        ({"x_train": IMAGES.astype(np.int64)}, "x_train: images must be uint8"),
        ({"x_train": IMAGES[0, 0]}, "x_train: images must be N x H x W"),
        ({"x_train": IMAGES.transpose(0, 3, 1, 2)[..., [0] * 9]}, "last dimension must be 1 to 4 channels"),
        ({"y_train": LABELS / 1}, "y_train: labels must be integers"),
        ({"y_train": np.eye(6, dtype=int)}, "y_train: labels must be one number an image"),
        ({"y_train": LABELS[:5]}, "6 train images but 5 labels"),
        ({"y_train": LABELS - 1}, "labels run from -1"),
        ({"classes": np.array(["a", "b"])}, "there are 2 classes"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "no training images"),
        ({"x_test": IMAGES[:, :2], "y_test": LABELS}, "differ in shape"),
    ],
)
def test_another_layout_is_refused_with_the_file_and_the_reason(
    file: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        arrays(save(file, **changes))
    assert str(file) in str(refused.value)


class Hostile:
    """Unpickling this makes a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "classes"])
def test_a_pickled_array_is_refused_and_runs_nothing(file: Path, tmp_path: Path, key: str) -> None:
    mark = tmp_path / "mark"
    save(file, **{key: np.array([Hostile(mark)], dtype=object)})
    with pytest.raises(UserError, match=r"own\.npz"):
        arrays(str(file))
    assert not mark.exists()
    np.load(file, allow_pickle=True)[key]  # the trap does work
    assert mark.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    np.savez_compressed(file, x_train=np.zeros((200, 8, 8), np.uint8), y_train=np.zeros(200, int))
    assert file.stat().st_size < 10_000
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("was unpacked"))
    with pytest.raises(UserError, match="unpacked, more than"):
        arrays(str(file))


def test_a_member_that_is_no_array_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train.npy", b"hello")
        archive.writestr("y_train.npy", b"hello")
    with pytest.raises(UserError, match=r"x_train is not an array|not an npz of plain arrays"):
        arrays(str(file))


def test_a_header_that_promises_more_than_the_memory_holds_is_refused(file: Path) -> None:
    header = str({"descr": "|u1", "fortran_order": False, "shape": (2**60, 1, 1)})
    member = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header.encode() + b"\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train.npy", member)
        archive.writestr("y_train.npy", member)
    with pytest.raises(UserError, match=r"own\.npz: truncated, altered or not"):
        arrays(str(file))


def test_a_header_of_noise_is_refused(file: Path) -> None:
    np.savez(file, x_train=np.zeros((2, 4, 4), np.uint8), y_train=np.arange(2))
    content = bytearray(file.read_bytes())
    start = content.index(b"NUMPY") + 9
    content[start : start + 40] = b"(" * 40
    file.write_bytes(content)
    with pytest.raises(UserError, match="truncated, altered or not an npz"):
        arrays(str(file))


def test_images_without_pixels_are_refused(file: Path) -> None:
    np.savez(file, x_train=np.zeros((2, 0, 4), np.uint8), y_train=np.arange(2))
    with pytest.raises(UserError, match=r"these have shape \(2, 0, 4\)"):
        arrays(str(file))


def test_a_file_cut_off_anywhere_is_refused(file: Path) -> None:
    save(file)
    raw = file.read_bytes()
    for length in range(0, len(raw), 7):
        file.write_bytes(raw[:length])
        with pytest.raises(UserError, match=r"own\.npz"):
            arrays(str(file))


def test_a_changed_byte_anywhere_is_refused_or_changes_no_image(file: Path) -> None:
    save(file)
    raw = file.read_bytes()
    refused = 0
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 0xFF
        file.write_bytes(changed)
        try:  # a zip has bytes that mean nothing, such as the time
            data = arrays(str(file))
            assert np.array_equal(data.train_images, IMAGES.transpose(0, 3, 1, 2))
            assert data.train_labels.tolist() == LABELS.tolist()
        except UserError as error:
            refused += str(file) in str(error)
    assert refused > len(raw) // 2


def test_a_missing_file_and_a_file_of_another_kind_are_refused_by_name(file: Path) -> None:
    with pytest.raises(UserError, match=r"own\.npz: no such file"):
        arrays(str(file))
    file.write_text("not a zip")
    with pytest.raises(UserError, match=r"own\.npz: truncated, altered or not"):
        arrays(str(file))


# Maps -----------------------------------------------------------------------------------------------------

BOTH = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:4], "y_test": LABELS[:4]}


def save_folder(folder: Path, **arrays_by_key: Any) -> str:
    folder.mkdir()
    for key, array in arrays_by_key.items():
        np.save(folder / f"{key}.npy", array)
    return str(folder)


def assert_same(one: ImageDataset, other: ImageDataset) -> None:
    for key in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(one, key), getattr(other, key)), key
        assert getattr(one, key).stride() == getattr(other, key).stride(), key
    assert (one.classes, one.fingerprint) == (other.classes, other.fingerprint)


def test_what_is_mapped_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {**BOTH, "classes": np.array(["cat", "dog", "cow"])}
    np.savez(tmp_path / "plain.npz", **stored)
    np.savez_compressed(tmp_path / "packed.npz", **stored)
    save_folder(tmp_path / "folder", **stored)
    read = arrays(str(tmp_path / "plain.npz"))
    assert not is_mapped(read.train_images)
    monkeypatch.setattr(module, "MAP_FROM", 0)
    for name, mapped in (("plain.npz", True), ("packed.npz", False), ("folder", True)):
        data = arrays(str(tmp_path / name))
        assert_same(data, read)
        assert [is_mapped(data.train_images), is_mapped(data.test_images)] == [mapped, mapped], name


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_layout_is_mapped_or_read_to_the_same(
    tmp_path: Path, shape: tuple[int, ...], order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.asarray(IMAGES.reshape(-1)[: np.prod(shape)].reshape(shape), order=order)
    np.savez(tmp_path / "own.npz", x_train=images, y_train=LABELS)
    read = arrays(str(tmp_path / "own.npz"))
    monkeypatch.setattr(module, "MAP_FROM", 0)
    assert_same(arrays(str(tmp_path / "own.npz")), read)


def test_a_folder_of_npy_files_is_refused_by_what_is_wrong_with_it(file: Path) -> None:
    folder = save_folder(file.with_name("folder"), x_train=IMAGES)
    with pytest.raises(UserError, match="folder: has no y_train"):
        arrays(folder)
    np.save(file.with_name("folder") / "y_train.npy", LABELS)
    raw = (file.with_name("folder") / "x_train.npy").read_bytes()
    for length in (0, 5, 50, len(raw) - 1):
        (file.with_name("folder") / "x_train.npy").write_bytes(raw[:length])
        with pytest.raises(UserError, match="folder: truncated, altered or not"):
            arrays(folder)


def test_an_archive_with_other_parts_and_extra_fields_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "own.npz", **BOTH)
    monkeypatch.setattr(module, "MAP_FROM", 0)
    expected = arrays(str(tmp_path / "own.npz"))
    with zipfile.ZipFile(tmp_path / "own.npz") as archive, zipfile.ZipFile(tmp_path / "other.npz", "w") as other:
        other.writestr("a comment", "of some length")
        for name in archive.namelist():
            entry = zipfile.ZipInfo(name)
            entry.extra = b"\x99\x99\4\0abcd"  # stands in the local header, too
            other.writestr(entry, archive.read(name))
    data = arrays(str(tmp_path / "other.npz"))
    assert is_mapped(data.train_images)
    assert_same(data, expected)
