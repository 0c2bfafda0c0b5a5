"""Hostile checkpoints: task=test refuses each in one line, and nothing in it is run."""

import pickle
import tarfile
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hostile import (
    SECTIONS,
    Builds,
    Calls,
    Content,
    Ground,
    Write,
    check_refused,
    parts_of,
    pickle_file,
    python,
    replaced,
    shell,
    zip_of,
)  # fmt: skip


def put(*path: Any, content: Content) -> Write:
    """The honest checkpoint with ``content`` in one place."""

    def write(ground: Ground, file: Path) -> None:
        torch.save(replaced(ground.checkpoint(), [*path], content, ground), file)

    return write


def zipped(content: Content, protocol: int) -> Write:
    """A pickle in a zip archive, as torch.save writes it."""

    def write(ground: Ground, file: Path) -> None:
        pickled = pickle.dumps(content(ground) if callable(content) else content, protocol)
        file.write_bytes(zip_of({"a/data.pkl": pickled, "a/version": b"3\n"}))

    return write


def write_bare_pickle(ground: Ground, file: Path) -> None:
    file.write_bytes(pickle.dumps({"state_dict": {}, "smallvision": shell(ground)}))


def write_legacy(ground: Ground, file: Path) -> None:
    content = {**ground.checkpoint(), "more": shell(ground)}
    torch.save(content, file, _use_new_zipfile_serialization=False)


def write_tar(ground: Ground, file: Path) -> None:
    content = pickle.dumps(shell(ground))
    with tarfile.open(file, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def write_torchscript(ground: Ground, file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but such files exist
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)


def write_packed(ground: Ground, file: Path) -> None:
    torch.save(ground.checkpoint(), file)
    file.write_bytes(zip_of({**parts_of(file), "a/data/999": bytes(200_000_000)}, zipfile.ZIP_DEFLATED))


def write_pickle_before_zip(ground: Ground, file: Path) -> None:
    torch.save(ground.checkpoint(), file)
    file.write_bytes(pickle.dumps(shell(ground)) + file.read_bytes())


def write_two_pickles(ground: Ground, file: Path) -> None:
    torch.save({**ground.checkpoint(), "more": [1] * 3}, file)
    file.write_bytes(zip_of({**parts_of(file), "data.pkl": pickle.dumps(shell(ground), 2)}))


def write_deep_lists(ground: Ground, file: Path) -> None:
    file.write_bytes(zip_of({"a/data.pkl": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."}))


def doubled(times: int) -> Any:
    """A list of 2 ** times entries in a few bytes of pickle."""
    lists: Any = ["ha"]
    for _ in range(times):
        lists = [lists, lists]
    return lists


PICKLES: dict[str, Write] = {
    "os.system beside the weights": put("more", content=shell),
    "eval in the config": put("smallvision", "config", "seed", content=python),
    "os.system in an optimizer's state": put("optimizer_states", 0, "state", content=shell),
    "os.system for smallvision's part": put("smallvision", content=shell),
    "eval among the weights": put("state_dict", "predictor.network.1.weight", content=python),
    "os.system in a callback's state": put("callbacks", "Checkpointing", content=shell),
    "a torch class with a state": put("more", content=lambda ground: Builds(shell(ground))),
    "torch.load of a file": put("more", content=lambda ground: Calls(torch.load, str(pickle_file(ground)))),
    "a whole network": put("more", content=lambda _: torch.nn.Linear(1, 1)),
    "a bare pickle": write_bare_pickle,
    "a legacy checkpoint": write_legacy,
    "a tar archive": write_tar,
    "a pickle of protocol 4 in a zip": zipped(shell, 4),
    "a pickle of protocol 2 in a zip": zipped(shell, 2),
    "a pickle before the zip": write_pickle_before_zip,
    "two pickles in a zip": write_two_pickles,
    "TorchScript": write_torchscript,
    "compressed parts": write_packed,
    "a bytearray of 5 GB": zipped({"state_dict": {}, "smallvision": Calls(bytearray, 5 * 10**9)}, 2),
    "lists in lists, 2**40 of them": put("more", content=doubled(40)),
    "lists 100,000 deep": write_deep_lists,
}  # fmt: skip
DAMAGE: dict[str, tuple[list[str], Any]] = {
    "weights that are text": (["state_dict", "predictor.network.1.weight"], "x"),
    "weights of another shape": (["state_dict", "predictor.network.1.weight"], torch.zeros(3)),
    "weights that are a list": (["state_dict"], [1]),
    "a shape that is text": (["smallvision", "shape"], "x"),
    "a shape without bounds": (["smallvision", "shape"], [1, 10**9, 10**9]),
    "means that are text": (["smallvision", "mean"], ["x"]),
    "means of other channels": (["smallvision", "mean"], [0.5, 0.5, 0.5]),
    "no classes": (["smallvision", "classes"], None),
    "data without a fingerprint": (["smallvision", "data"], {}),
    "an epoch that is text": (["epoch"], "x"),
    "a step that is a list": (["global_step"], []),
    "a number of 80,000 bits": (["smallvision", "config", "seed"], 1 << 80_000),
    "half a character": (["smallvision", "config", "data", "name"], "\ud800"),
    "a tensor in the config": (["smallvision", "config", "model", "hidden"], torch.zeros(2)),
}


def check_test(ground: Ground, file: Path, message: str) -> None:
    check_refused(ground, file.parent, ["task=test", "hydra.run.dir=tested", f"checkpoint={file}"], message)


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_would_run_something_or_fill_the_memory_is_refused(
    ground: Ground, tmp_path: Path, kind: str
) -> None:
    PICKLES[kind](ground, file := tmp_path / "hostile.ckpt")
    check_test(ground, file, f"{file}: ")


@pytest.mark.parametrize("kind", DAMAGE)
def test_plain_data_that_does_not_fit_is_refused(ground: Ground, tmp_path: Path, kind: str) -> None:
    path, content = DAMAGE[kind]
    torch.save(replaced(ground.checkpoint(), path, content, ground), file := tmp_path / "hostile.ckpt")
    check_test(ground, file, "error: ")


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_config_in_a_checkpoint_that_names_what_it_may_not_is_refused(
    ground: Ground, tmp_path: Path, kind: str
) -> None:
    path, content = SECTIONS[kind]
    checkpoint = replaced(ground.checkpoint(), ["smallvision", "config", *path], content, ground)
    torch.save(checkpoint, file := tmp_path / "hostile.ckpt")
    message = f"{file}: does not hold the config of a run" if path == ["data"] else f"error: {path[0]}"
    check_test(ground, file, message)
