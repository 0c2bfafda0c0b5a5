"""Files that somebody made to run something, to fill the memory or to break the terminal: what they have in common."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import yaml

from helpers.command import TINY
from helpers.forks import shared

SMALL = (*TINY, "data.images=120", "data.test_images=40", "data.size=12", "model=fashion_mnist", "model.hidden=[4]",
         "device=cpu", "trainer.max_epochs=1", "report=false")  # fmt: skip
GIB = 2**30
MORE_MB = 200  # that a hostile file may take beyond what an honest run takes


@dataclass
class Ground:
    """Where the files are made: ``run`` is an honest run, ``marks`` the folder where payloads leave their marks."""

    root: Path
    run: Path
    peak: float  # MB, of the honest run

    @property
    def marks(self) -> Path:
        return self.root / "marks"

    def touch(self, name: str) -> str:
        """A shell command that leaves a mark."""
        return f"touch {self.marks / name}"

    def checkpoint(self) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.run / "checkpoints/last.ckpt", weights_only=True)
        return content

    def config(self) -> Any:
        return yaml.safe_load((self.run / "config.yaml").read_text())


Write = Callable[[Ground, Path], object]  # makes a hostile file
Content = Any  # what is put in a file, or a function of the ground that gives it


def make_ground(root: Path) -> Ground:
    """An honest run; a module that leaves a mark when it is imported, a Ghostscript that does when it is started."""
    ground = Ground(root, root / "run", 0.0)
    ground.marks.mkdir()
    (root / "marking.py").write_text(f"open({str(ground.marks / 'imported')!r}, 'w')\ndef mark(*_, **__): pass\n")
    (root / "bin").mkdir()
    (root / "bin/gs").write_text(f"#!/bin/sh\n{ground.touch('ghostscript')}\n")
    (root / "bin/gs").chmod(0o755)
    honest = shared().run(root, [*SMALL, "hydra.run.dir=run"])
    assert honest["code"] == 0, (root / "out.txt").read_text()
    ground.peak = honest["peak"]
    return ground


def check_refused(ground: Ground, folder: Path, typed: list[str], message: str) -> None:
    """The command line ends with exit code 2 and one line that holds ``message``, and the file has done nothing."""
    code, out, err = _run(ground, folder, typed)
    assert code == 2, out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def check_harmless(ground: Ground, folder: Path, typed: list[str]) -> None:
    """The command line succeeds: what is in the file is text or a number like any other, or nobody reads it."""
    code, out, err = _run(ground, folder, typed)
    assert code == 0, out + err


def _run(ground: Ground, folder: Path, typed: list[str]) -> tuple[int, str, str]:
    """Exit code and output, after asserting what holds of every hostile file."""
    path = {"PATH": f"{ground.root / 'bin'}:{os.environ['PATH']}"}
    ended = shared().run(
        folder, typed, 600, err="err.txt", memory=24 * GIB, env=path, modules=str(ground.root)
    )  # fmt: skip
    out, err = (folder / "out.txt").read_text(), (folder / "err.txt").read_text()
    assert (out + err).replace("\n", "").isprintable(), "terminal commands are printed"
    assert ended["peak"] <= ground.peak + MORE_MB
    assert [mark.name for mark in ground.marks.iterdir()] == []
    return ended["code"], out, err


# Payloads -------------------------------------------------------------------------------------------------


class Calls:
    """Unpickled, it calls ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.called


class Builds:
    """Unpickled, it has a torch class take a state."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.nn.Linear, (1, 1), {"training": self.inner}


def shell(ground: Ground) -> Calls:
    return Calls(os.system, ground.touch("pickle"))


def python(ground: Ground) -> Calls:
    return Calls(eval, f"open({str(ground.marks / 'eval')!r}, 'w')")


def pickle_file(ground: Ground) -> Path:
    """A file whose unpickling leaves a mark."""
    file = ground.root / "payload.pkl"
    file.write_bytes(pickle.dumps(Calls(os.system, ground.touch("loaded"))))
    return file


def os_system(ground: Ground) -> dict[str, str]:
    """A section of a config that names a function which runs a shell."""
    return {"_target_": "os.system", "command": ground.touch("target"), "name": "x"}


SECTIONS = {
    f"os.system for the {section}": ([section], os_system)
    for section in ("data", "model", "optimizer", "scheduler", "logger")
} | {"builtins.eval for the model": (["model", "_target_"], "builtins.eval")}


# Files ----------------------------------------------------------------------------------------------------


def replaced(tree: Any, path: list[Any], content: Content, ground: Ground) -> Any:
    """A copy of ``tree`` with ``content`` at ``path``."""
    tree = deepcopy(tree)
    node = tree
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = content(ground) if callable(content) else content
    return tree


def zip_of(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def parts_of(file: Path) -> dict[str, bytes]:
    """The parts of a zip archive by their names."""
    with zipfile.ZipFile(file) as archive:
        return {part.filename: archive.read(part) for part in archive.infolist()}


def npy(header: str, content: bytes = b"") -> bytes:
    """A .npy file with that header, whatever follows."""
    padded = header + " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + content
