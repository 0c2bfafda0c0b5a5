"""CIFAR-10 from torchvision's folder of batches, or from a prepared npz."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from smallvision.core.errors import UserError
from smallvision.data import standard as module
from smallvision.data.dataset import digest
from smallvision.data.standard import BATCHES, CLASSES, FOLDER, Array, cifar10

PER_BATCH = 4


def batches() -> dict[str, bytes]:
    """The pickled files of a made-up CIFAR-10 with four images in each batch."""
    rng = np.random.default_rng(0)
    files = {}
    for name in BATCHES[:-1]:
        images = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
        labels = [int(label) for label in rng.integers(0, 10, PER_BATCH)]
        files[name] = pickle.dumps({"data": images, "labels": labels})
    return files | {"batches.meta": pickle.dumps({"label_names": CLASSES})}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Batches which torchvision, for the test, takes for the official ones."""
    files = batches()
    official = datasets.CIFAR10
    monkeypatch.setattr(official, "train_list", [[name, md5(files[name])] for name in BATCHES[:5]])
    monkeypatch.setattr(official, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(official, "meta", {**official.meta, "md5": md5(files["batches.meta"])})
    monkeypatch.setattr(official, "url", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return files


def write(root: Path, files: dict[str, bytes]) -> Path:
    (root / FOLDER).mkdir(parents=True)
    for name, content in files.items():
        (root / FOLDER / name).write_bytes(content)
    return root / FOLDER


@pytest.mark.parametrize("place", [".", "cifar10", "CIFAR10"])
def test_the_batches_are_found_wherever_they_usually_lie(tmp_path: Path, files: dict[str, bytes], place: str) -> None:
    write(tmp_path / place, files)
    data = cifar10(str(tmp_path))
    first, test = pickle.loads(files["data_batch_1"]), pickle.loads(files["test_batch"])
    assert data.train_images.shape == (5 * PER_BATCH, 3, 32, 32)
    assert np.array_equal(data.train_images[:PER_BATCH].flatten(1), first["data"])
    assert data.train_labels[:PER_BATCH].tolist() == first["labels"]
    assert np.array_equal(data.test_images.flatten(1), test["data"])
    assert data.test_labels.tolist() == test["labels"]
    assert data.classes == CLASSES
    assert data.stand_in_for is None


class Hostile:
    """Unpickling this makes a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", BATCHES)
def test_an_altered_batch_is_refused_by_name_before_it_is_unpickled(
    tmp_path: Path, files: dict[str, bytes], name: str
) -> None:
    mark = tmp_path / "mark"
    folder = write(tmp_path, files)
    (folder / name).write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(UserError) as refused:
        cifar10(str(tmp_path))
    assert str(refused.value).startswith(f"{folder / name}: truncated or altered")
    assert not mark.exists()
    pickle.loads((folder / name).read_bytes())  # the trap does work
    assert mark.exists()


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_a_batch_cut_off_is_refused_by_name(tmp_path: Path, files: dict[str, bytes], length: int) -> None:
    folder = write(tmp_path, files)
    (folder / "data_batch_3").write_bytes(files["data_batch_3"][:length])
    with pytest.raises(UserError, match="data_batch_3: truncated or altered"):
        cifar10(str(tmp_path))


def keras() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8),
        "y_train": rng.integers(0, 10, (12, 1), dtype=np.uint8),
        "x_test": rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8),
        "y_test": rng.integers(0, 10, (6, 1), dtype=np.uint8),
    }


def make_official(arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    table = {}
    for part, key in module.npz.KEYS.items():
        array = torch.from_numpy(arrays[key])
        array = array.permute(0, 3, 1, 2) if array.ndim == 4 else array[:, 0]
        table[part] = Array(tuple(array.shape), digest(array.contiguous()), len(array))
    monkeypatch.setattr(module, "OFFICIAL", table)


def test_a_prepared_npz_in_the_keras_layout_serves_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = keras()
    make_official(arrays, monkeypatch)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    data = cifar10(str(tmp_path))
    assert data.stand_in_for is None
    assert data.classes == CLASSES
    assert np.array_equal(data.train_images.permute(0, 2, 3, 1), arrays["x_train"])
    assert data.test_labels.tolist() == arrays["y_test"][:, 0].tolist()


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_an_npz_with_an_altered_byte_is_refused_and_the_array_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    arrays = keras()
    make_official(arrays, monkeypatch)
    arrays[key].reshape(-1)[5] ^= 1
    np.savez(tmp_path / "cifar10.npz", **arrays)
    with pytest.raises(UserError, match=rf"cifar10\.npz, {key}: altered"):
        cifar10(str(tmp_path))


def test_an_npz_of_other_images_is_said_to_be_a_stand_in(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **keras())
    assert cifar10(str(tmp_path)).stand_in_for == "cifar10"


@pytest.mark.parametrize("missing", [None, "batches.meta", "data_batch_5"])
def test_without_the_whole_folder_and_without_a_network_there_is_a_stand_in_or_a_refusal(
    tmp_path: Path, files: dict[str, bytes], missing: str | None
) -> None:
    if missing:
        (write(tmp_path, files) / missing).unlink()
    data = cifar10(str(tmp_path))
    assert (data.stand_in_for, data.shape) == ("cifar10", (3, 32, 32))
    with pytest.raises(UserError, match=r"data=cifar10: not found and not downloaded"):
        cifar10(str(tmp_path), offline="error")


def test_the_archive_is_downloaded_unpacked_and_not_kept(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with tarfile.open(served / "cifar.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
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
    assert kept - {".download.lock"} == set(BATCHES)
