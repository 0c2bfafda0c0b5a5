"""Checkpoints are plain, whole, and run nothing."""

import io
import os
import pickle
import random
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.training import checkpoint
from smallvision.training.checkpoint import FORMAT, PREFIX, PlainCheckpointIO, read_checkpoint

CONFIG: dict[str, Any] = {
    "seed": 0, "model": {"_target_": "smallvision.models.Linear"}, "optimizer": {"betas": [0.9, 0.999]},
    "data": {"normalisation": {"whiten": 0}}, "tta": {"flip": False, "shift": 0},
    **{name: {} for name in ("loss", "scheduler", "callbacks", "device", "logger", "trainer", "early_stopping")},
}  # fmt: skip
OURS = {
    "format": FORMAT, "config": CONFIG, "shape": [1, 28, 28],
    "classes": ["zero", "größe"], "mean": [0.5], "std": [0.25],
    "data": {"name": "x", "source": "y", "fingerprint": "z", "stand_in_for": None}, "position": None,
}  # fmt: skip


def plain() -> dict[str, Any]:
    return {
        "state_dict": {f"{PREFIX}weight": torch.arange(6.0).view(2, 3)}, "epoch": 3, "global_step": 40,
        "pytorch-lightning_version": "2.6.0", "smallvision": dict(OURS),
    }  # fmt: skip


def write(file: Path, content: Any = None) -> Path:
    PlainCheckpointIO().save_checkpoint(plain() if content is None else content, file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "a.ckpt")


def assert_same(found: dict[str, Any]) -> None:
    torch.testing.assert_close(found["state_dict"], plain()["state_dict"], rtol=0, atol=0)
    assert (found["epoch"], found["smallvision"]) == (3, OURS)


def test_what_is_written_is_read_again(file: Path) -> None:
    assert_same(read_checkpoint(file).raw)
    assert_same(PlainCheckpointIO().load_checkpoint(file))
    assert_same(PlainCheckpointIO().load_checkpoint(str(file), map_location="meta", weights_only=False))


def test_torch_itself_reads_it_as_weights_only(file: Path) -> None:
    assert_same(torch.load(file, weights_only=True))


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert_same(read_checkpoint(write(tmp_path / "deep" / "er" / "a.ckpt")).raw)


def test_nothing_but_the_file_is_left(file: Path) -> None:
    assert list(file.parent.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_checkpoint(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write(file, {"state_dict": {"weight": torch.zeros(1000)}, "bad": lambda: None})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_copy_is_the_same_bytes_and_replaces_what_was_there(file: Path) -> None:
    target = file.with_name("best.ckpt")
    target.write_text("old")
    checkpoint.copy(file, target)
    assert target.read_bytes() == file.read_bytes()


def test_a_copy_of_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "best.ckpt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError):
        checkpoint.copy(tmp_path / "nope", target)
    assert [one.name for one in tmp_path.iterdir()] == ["best.ckpt"]
    assert target.read_text() == "old"


def test_a_checkpoint_can_be_removed_twice(file: Path) -> None:
    for _ in range(2):
        PlainCheckpointIO().remove_checkpoint(file)
        assert not file.exists()


# What is no checkpoint -----------------------------------------------------------------------------------


class Marks:
    """Unpickled, it calls ``function`` with the path of a mark."""

    def __init__(self, function: Any, mark: Path) -> None:
        self.function, self.mark = function, mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.function, (str(self.mark),)


@pytest.mark.parametrize(
    "function", [os.mkdir, os.system, eval, Path, io.open, torch.load], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("form", ["torch", "zip", "legacy", "bare"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, function: Any, form: str
) -> None:
    mark, file = tmp_path / "mark", tmp_path / "hostile.ckpt"
    content = {**plain(), "extra": Marks(function, mark)}
    if form == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", pickle.dumps({"extra": content["extra"]}, protocol=2))
            archive.writestr("a/version", "3\n")
    elif form == "bare":
        file.write_bytes(pickle.dumps({"extra": content["extra"]}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(UserError, match=r"hostile\.ckpt"):
        read_checkpoint(file)
    assert not mark.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["hostile.ckpt"]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"a\.ckpt"):
        read_checkpoint(file)


def test_a_damaged_checkpoint_is_refused_or_read_but_never_breaks(file: Path) -> None:
    whole, said = file.read_bytes(), []
    for start in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytes(255 - byte for byte in whole[start : start + 9])
        file.write_bytes(whole[:start] + damaged + whole[start + 9 :])
        try:
            read_checkpoint(file)
        except UserError as refusal:
            said.append(str(refusal))
    assert len(said) > 10
    assert [line for line in said if "a.ckpt" not in line or "\n" in line] == []


@pytest.mark.parametrize(
    "names", [[], ["a.txt"], ["x/data.pkl"], ["x/data.pkl", "x/version"], ["x_train.npy"]], ids=str
)
def test_another_zip_file_is_refused(tmp_path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        for name in names:
            archive.writestr(name, "3\n")
    with pytest.raises(UserError, match=r"a\.ckpt"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04.", b"PK\x03\x04", b"\0" * 1000], ids=repr)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"a\.ckpt: not a checkpoint"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        3,
        "text",
        torch.zeros(3),
        {},
        {"state_dict": {}},
        {"smallvision": OURS},
        {"state_dict": {}, "smallvision": None},
        {"state_dict": {}, "smallvision": [1]},
        {"state_dict": {}, "smallvision": {}},
        *({**plain(), "smallvision": {k: v for k, v in OURS.items() if k != lacking}} for lacking in OURS),
        *({k: v for k, v in plain().items() if k != lacking} for lacking in plain()),
        {**plain(), "state_dict": {"weight": torch.zeros(1).expand(10**12)}},
        {**plain(), "epoch": -1},
        {**plain(), "more": 1 << 2000},
    ],
    ids=lambda content: str(content)[:60],
)
def test_plain_data_that_are_no_checkpoint_of_ours_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: "):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("newer", [FORMAT + 1, 10**30, "1", 1.0, None])
def test_a_newer_format_is_refused_with_its_number(tmp_path: Path, newer: Any) -> None:
    file = write(tmp_path / "a.ckpt", {**plain(), "smallvision": OURS | {"format": newer}})
    with pytest.raises(UserError, match=f"format {newer}.*up to {FORMAT}"):
        read_checkpoint(file)


@pytest.mark.parametrize("name", ["nope.ckpt", "a" * 300, "folder", "file/below"])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"checkpoint=.*(no such file|not a run directory)"):
        read_checkpoint(tmp_path / name)


# Damage --------------------------------------------------------------------------------------------------


def written_run(folder: Path, steps: dict[str, int]) -> Path:
    """A folder of checkpoints at those steps."""
    for name, step in steps.items():
        write(folder / name, {**plain(), "global_step": step})
    return folder


@pytest.mark.parametrize("share", range(0, 100, 5))
def test_a_truncated_checkpoint_is_refused_and_the_one_before_is_taken(tmp_path: Path, share: int) -> None:
    folder = written_run(tmp_path, {"last.ckpt": 30, "last.1.ckpt": 20, "best.ckpt": 10})
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[: len(whole) * share // 100])
    found, damaged = checkpoint.newest(folder)
    assert found is not None
    assert found.path == folder / "last.1.ckpt"
    assert len(damaged) == 1
    assert str(folder / "last.ckpt") in damaged[0]
    assert (folder / "last.ckpt.damaged").is_file()
    assert not (folder / "last.ckpt").exists()


@pytest.mark.parametrize("seed", range(100))
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path, seed: int) -> None:
    folder = written_run(tmp_path, {"last.ckpt": 30, "best.ckpt": 10})
    content = bytearray((folder / "last.ckpt").read_bytes())
    position = random.Random(seed).randrange(8 * len(content))
    content[position // 8] ^= 1 << position % 8
    (folder / "last.ckpt").write_bytes(content)
    found, damaged = checkpoint.newest(folder)
    assert found is not None
    if found.path == folder / "last.ckpt":
        assert damaged == []
        assert_same(found.raw)
    else:
        assert found.path == folder / "best.ckpt"
        assert str(folder / "last.ckpt") in damaged[0]


def test_zero_bytes_in_the_midst_of_the_weights_are_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ckpt", {**plain(), "state_dict": {"weight": torch.ones(5000)}})
    content = bytearray(file.read_bytes())
    at = content.index(torch.ones(100).numpy().tobytes())
    content[at + 40 : at + 80] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(UserError, match="checksum of"):
        read_checkpoint(file)


def test_the_newest_that_can_be_read_is_taken_whatever_its_name(tmp_path: Path) -> None:
    folder = written_run(tmp_path, {"last.ckpt": 30, "last.1.ckpt": 10, "best.ckpt": 20})
    found, damaged = checkpoint.newest(folder)
    assert found is not None
    assert (found.path, damaged) == (folder / "last.ckpt", [])
    (folder / "last.ckpt").write_bytes(b"")
    found, _ = checkpoint.newest(folder)
    assert found is not None
    assert found.path == folder / "best.ckpt"


def test_with_no_checkpoint_left_that_can_be_read_it_is_refused_and_nothing_is_moved(tmp_path: Path) -> None:
    folder = written_run(tmp_path, {"last.ckpt": 30, "best.ckpt": 10})
    for file in folder.iterdir():
        file.write_bytes(b"PK")
    with pytest.raises(UserError, match="no other checkpoint is left"):
        checkpoint.newest(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_before_the_first_save_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) == (None, [])
    assert checkpoint.newest(tmp_path / "nowhere") == (None, [])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_so_many_are_kept_and_the_newest_is_there_all_the_time(tmp_path: Path, count: int) -> None:
    last = tmp_path / "last.ckpt"
    for step in range(6):
        if last.is_file():
            checkpoint.keep_older(last, count)
            assert read_checkpoint(last).step == step - 1
        written_run(tmp_path, {"last.ckpt": step})
    kept = {file.name: read_checkpoint(file).step for file in tmp_path.iterdir()}
    names = ["last.ckpt", *(f"last.{number}.ckpt" for number in range(1, count))]
    assert kept == {name: 5 - age for age, name in enumerate(names)}


def test_a_full_disk_is_told_in_its_own_words_and_leaves_the_old_file(tmp_path: Path) -> None:
    """Here of files that may not grow beyond 100 kB."""
    file = write(tmp_path / "a.ckpt", {"w": torch.ones(10)})
    limit, highest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, highest))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(file, {"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, highest))
    assert torch.equal(torch.load(file)["w"], torch.ones(10))
    assert [one.name for one in tmp_path.iterdir()] == ["a.ckpt"]
