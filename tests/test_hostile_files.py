"""Files that a stranger made to run something, to fill the memory or to break the screen: all are refused.

Every file goes through the real command line, in a fork with the imports done. `-s` prints their number.
"""

import io
import json
import os
import pickle
import pydoc
import shutil
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.command import TINY
from helpers.forks import Forks
from PIL import Image

SMALL = [*TINY, "data.images=120", "data.test_images=40", "data.size=12", "model=fashion_mnist",
         "model.hidden=[4]", "device=cpu", "trainer.max_epochs=1"]  # fmt: skip
GIB = 2**30
MORE_MB = 200  # than a process has after its imports, and no hostile file may have it take more


@dataclass
class Ground:
    """Where the files are made: ``run`` is an honest run, ``marks`` is where their payloads leave marks."""

    root: Path
    run: Path

    @property
    def marks(self) -> Path:
        return self.root / "marks"

    def touch(self, name: str) -> str:
        """A shell's command that leaves a mark."""
        return f"touch {self.marks / name}"

    def saved(self) -> dict[str, Any]:
        return torch.load(self.run / "checkpoints/last.ckpt", weights_only=True)

    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.run / "config.yaml").read_text())


@dataclass
class Case:
    """Where a file is opened, how, and what the one line about it says; None where it is harmless."""

    folder: Path
    typed: list[str]
    says: str | None


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


# Checkpoints ---------------------------------------------------------------------------------------------


def pickles(ground: Ground) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Checkpoints whose pickle would run something, or fill the memory."""
    shell = Calls(os.system, ground.touch("pickle"))
    python = Calls(eval, f"open({str(ground.marks / 'eval')!r}, 'w')")

    def put(*path: Any, content: Any) -> Callable[[Path], None]:
        def write(file: Path) -> None:
            whole = ground.saved()
            node = whole
            for name in path[:-1]:
                node = node[name]
            node[path[-1]] = content
            torch.save(whole, file)

        return write

    def bare(file: Path) -> None:
        file.write_bytes(pickle.dumps({"state_dict": {}, "smallvision": shell}))

    def legacy(file: Path) -> None:
        torch.save({**ground.saved(), "more": shell}, file, _use_new_zipfile_serialization=False)

    def tar(file: Path) -> None:
        with tarfile.open(file, "w") as archive:
            for name in ("storages", "tensors", "pickle"):
                content = pickle.dumps(shell)
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    def by_hand(content: Any, protocol: int = 2) -> Callable[[Path], None]:
        def write(file: Path) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("a/data.pkl", pickle.dumps(content, protocol))
                archive.writestr("a/version", "3\n")

        return write

    def script(file: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would have another form now
            torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)

    def packed(file: Path) -> None:
        torch.save(ground.saved(), file)
        repack(file, zipfile.ZIP_DEFLATED, {"a/data/999": bytes(200_000_000)})

    def prepended(file: Path) -> None:
        torch.save(ground.saved(), file)
        file.write_bytes(pickle.dumps(shell) + file.read_bytes())

    def twice(file: Path) -> None:
        torch.save({**ground.saved(), "more": [1] * 3}, file)
        repack(file, zipfile.ZIP_STORED, {"data.pkl": pickle.dumps(shell, 2)})

    laughs: Any = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]

    def deep(file: Path) -> None:
        file.write_bytes(zip_of({"a/data.pkl": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."}))

    yield "os.system beside the weights", put("more", content=shell)
    yield "eval in the config", put("smallvision", "config", "seed", content=python)
    yield "os.system in an optimizer's state", put("optimizer_states", 0, "state", content=shell)
    yield "os.system for smallvision's part", put("smallvision", content=shell)
    yield "eval among the weights", put("state_dict", "network.1.weight", content=python)
    yield "os.system in a callback's state", put("callbacks", "Keeper", content=shell)
    yield "a torch class with a state", put("more", content=Builds(shell))
    yield "torch.load of a file", put("more", content=Calls(torch.load, str(file_of_pickle(ground))))
    yield "a whole network", put("more", content=torch.nn.Linear(1, 1))
    yield "a bare pickle", bare
    yield "a legacy checkpoint", legacy
    yield "a tar archive", tar
    yield "a pickle of protocol 4 in a zip", by_hand(shell, 4)
    yield "a pickle of protocol 2 in a zip", by_hand(shell, 2)
    yield "a pickle before the zip", prepended
    yield "two pickles in a zip", twice
    yield "TorchScript", script
    yield "packed parts", packed
    yield "a bytearray of 5 GB", by_hand({"state_dict": {}, "smallvision": Calls(bytearray, 5 * 10**9)})
    yield "lists in lists, 2**40 of them", put("more", content=laughs)
    yield "lists 100,000 deep", deep


def damage() -> Iterator[tuple[str, list[Any], Any]]:
    """Plain data in an honest checkpoint's place: where, and what."""
    yield "weights that are words", ["state_dict", "network.1.weight"], "x"
    yield "weights of another shape", ["state_dict", "network.1.weight"], torch.zeros(3)
    yield "weights that are a list", ["state_dict"], [1]
    yield "a shape that is a word", ["smallvision", "shape"], "x"
    yield "an endless shape", ["smallvision", "shape"], [1, 10**9, 10**9]
    yield "means that are words", ["smallvision", "mean"], ["x"]
    yield "means of other channels", ["smallvision", "mean"], [0.5, 0.5, 0.5]
    yield "no classes", ["smallvision", "classes"], None
    yield "data without a fingerprint", ["smallvision", "data"], {}
    yield "an epoch that is a word", ["epoch"], "x"
    yield "a step that is a list", ["global_step"], []
    yield "a number of 80,000 bits", ["smallvision", "config", "seed"], 1 << 80_000
    yield "half a character", ["smallvision", "config", "data", "name"], "\ud800"
    yield "a tensor in the config", ["smallvision", "config", "model", "hidden"], torch.zeros(2)


def states() -> Iterator[tuple[str, list[Any], Any]]:
    """The same in what only a run that continues reads."""
    yield "no optimizer", ["optimizer_states"], []
    yield "an optimizer of other groups", ["optimizer_states", 0, "param_groups"], []
    yield (
        "an optimizer's state of another shape",
        ["optimizer_states", 0, "state", 0, "exp_avg"],
        (torch.zeros(1).expand(10**9)),
    )
    yield "an optimizer that is a word", ["optimizer_states", 0], "x"
    yield "no loops", ["loops"], {}
    yield "loops that are a list", ["loops"], [1]
    yield "a loop's progress that is a word", ["loops", "fit_loop", "epoch_progress"], "x"
    yield "no version of Lightning", ["pytorch-lightning_version"], "x"
    yield "a history that is a word", ["callbacks", "Keeper", "history"], "x"
    yield "a callback's state that is a list", ["callbacks", "Keeper"], [1]
    yield "a keeper's own method", ["callbacks", "Keeper", "warn"], "x"
    yield "a keeper's own path", ["callbacks", "Keeper", "last_path"], "/tmp/elsewhere"
    yield "no position", ["smallvision", "position"], "x"
    yield "a position beyond the epoch", ["smallvision", "position"], {"epoch": 0, "batch": 10**12}
    yield "sums that are words", ["smallvision", "epoch_sums"], {"nope": "x"}
    yield "callbacks that are a list", ["callbacks"], [1]


def configs(ground: Ground) -> Iterator[tuple[str, list[str], Any]]:
    """Choices in a config: where, and what."""
    call = {"_target_": "os.system", "command": ground.touch("target"), "name": "x"}
    for section in ("data", "model", "optimizer", "scheduler", "logger"):
        yield f"os.system for the {section}", [section], call
    yield "builtins.eval for the model", ["model", "_target_"], "builtins.eval"
    yield "torch.load for the data", ["data", "_target_"], "torch.load"
    yield "an import for the optimizer's rest", ["optimizer", "rest"], {"_target_": "marking.mark"}
    yield "ours, but not on the list", ["model", "_target_"], "smallvision.config.targets.build"
    yield "a module that ours imports", ["data", "_target_"], "smallvision.data.arrays.zipfile"
    yield "an import for a key of the model", ["model", "hidden"], {"_target_": "marking.mark"}
    yield "an interpolation for a name", ["model", "name"], "${oc.env:HOME}"
    yield "a path for a name", ["data", "name"], "../../../elsewhere"
    yield "a logger's own program", ["logger"], {
        "name": "x", "_target_": "lightning.pytorch.loggers.WandbLogger",
        "settings": {"x_executable": "/bin/sh"},
    }  # fmt: skip
    yield "a logger's folder elsewhere", ["logger"], {
        "name": "x", "_target_": "lightning.pytorch.loggers.CSVLogger",
        "version": str(ground.marks / "elsewhere"),
    }  # fmt: skip
    yield "a callback of Lightning's", ["trainer", "callbacks"], [{"_target_": "marking.mark"}]
    yield "a model hub of Lightning's", ["trainer", "model_registry"], "marking"
    yield "a plugin of Lightning's", ["trainer", "plugins"], ["marking.mark"]


def laid(whole: Any, path: list[Any], content: Any) -> Any:
    whole = deepcopy(whole)
    node = whole
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = content
    return whole


def texts(ground: Ground) -> Iterator[tuple[str, str]]:
    """Whole files for a config.yaml."""
    honest = (ground.run / "config.yaml").read_text()
    yield "a tag that calls", f"seed: !!python/object/apply:os.system ['{ground.touch('yaml')}']\n{honest}"
    yield "a tag that imports", f"{honest}\nmore: !!python/name:marking.mark\n"
    yield "a tag that makes", f"{honest}\nmore: !!python/object/new:marking.mark []\n"
    laughs = "".join(f"  l{n}: &l{n} [{', '.join(['*l' + str(n - 1)] * 9)}]\n" for n in range(1, 30))
    yield "nine to the 29th entries", honest.replace("\nmodel:\n", f"\nmodel:\n  l0: &l0 [ha]\n{laughs}")
    yield "lists 50,000 deep", "[" * 50_000
    yield (
        "a number of 40,000 bits",
        honest.replace("\nseed: 0", f"\nseed: 0x{'f' * 10_000}").replace("seed: 0\n", f"seed: 0x{'f' * 10_000}\n"),
    )
    yield "a set, a date and bytes", f"{honest}\nmore: [!!set {{a}}, 2020-01-01, !!binary aGk=]\n"
    yield "no text", "\0\x1b[2J"


def file_of_pickle(ground: Ground) -> Path:
    file = ground.root / "payload.pkl"
    file.write_bytes(pickle.dumps(Calls(os.system, ground.touch("loaded"))))
    return file


def repack(file: Path, method: int, more: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in {**parts, **more}.items():
            archive.writestr(name, content)


# Arrays and pictures --------------------------------------------------------------------------------------


def npy(header: str, content: bytes = b"") -> bytes:
    """A .npy file with that header, whatever follows."""
    padded = header + " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + content


def archives(ground: Ground) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """What stands where an npz file should."""
    images = np.zeros((40, 8, 8), np.uint8)
    labels = np.arange(40) % 4
    honest = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    objects = np.array([Calls(os.system, ground.touch("npz"))], dtype=object)

    def arrays(**changed: Any) -> Callable[[Path], None]:
        def write(file: Path) -> None:
            with file.open("wb") as stream:
                np.savez(stream, **{**honest, **changed})

        return write

    def member(name: str, content: bytes, method: int = zipfile.ZIP_STORED, claim: int | None = None) -> Any:
        def write(file: Path) -> None:
            arrays()(file)
            with zipfile.ZipFile(file) as archive:
                parts = {part.filename: archive.read(part) for part in archive.infolist()}
            with zipfile.ZipFile(file, "w", method) as archive:
                for part, bytes_of in {**parts, name: content}.items():
                    archive.writestr(part, bytes_of)
            if claim is not None:
                raw = bytearray(file.read_bytes())
                at = raw.rindex(b"PK\1\2", 0, raw.rindex(name.encode()))
                raw[at + 24 : at + 28] = struct.pack("<I", claim)
                file.write_bytes(raw)

        return write

    for key in (*honest, "classes"):
        yield f"objects in {key}", arrays(**{key: objects})
    yield "a .npy of objects", lambda file: np.save(file.open("wb"), objects)
    yield "a pickle", lambda file: file.write_bytes(file_of_pickle(ground).read_bytes())
    yield "a pickle for an array", member("x_train.npy", file_of_pickle(ground).read_bytes())
    yield (
        "a shape of a thousand milliards",
        member("x_train.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8)}")),
    )
    yield (
        "a shape below nothing",
        member("x_train.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}")),
    )
    yield (
        "a header that calls",
        member(
            "x_train.npy",
            npy(f"{{'descr': __import__('os').system('{ground.touch('npy')}'), 'shape': (1,)}}"),
        ),
    )
    yield "a header of a million brackets", member("x_train.npy", npy("[" * 65_000))
    yield "4 GB claimed by a part of 100 bytes", member("x_test.npy", npy("{"), claim=2**32 - 2)
    yield (
        "1 GB of zeros in 700 bytes",
        member("x_train.npy", bytes(50_000_000), zipfile.ZIP_BZIP2, claim=12 * 10**8),
    )
    yield (
        "a part that says 100 bytes and has 100 MB",
        member(
            "x_train.npy",
            npy("{'descr': '|u1', 'fortran_order': False, 'shape': (100000000, 1, 1)}", bytes(100_000_000)),
            zipfile.ZIP_DEFLATED,
            100,
        ),
    )
    yield "a name out of the folder", member(f"../../{ground.marks.name}/x_train.npy", b"x")
    yield "a label of 10**12", arrays(y_train=np.where(labels == 3, 10**12, labels))
    yield "labels below nothing", arrays(y_train=labels - 9)
    yield (
        "names that are a terminal's commands",
        arrays(classes=np.array(["\x1b[2J\x1b]0;gone\a", "b", "c", "d"])),
    )


def png(width: int, height: int, *more: tuple[bytes, bytes], bits: int = 1, rows: int | None = None) -> bytes:
    """A black PNG of that size, with chunks of one's own."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(width: int, height: int) -> bytes:
    """A TIFF that claims that size, with one byte of pixels."""
    tags = {256: width, 257: height, 258: 1, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def pictures(ground: Ground) -> Iterator[tuple[str, str, bytes]]:
    """Files among honest images: what it is, its ending and its bytes."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    one = io.BytesIO()
    Image.new("RGB", (4, 4)).save(one, "GIF")
    gif = bytearray(one.getvalue())
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield "60,000 x 60,000 pixels", "png", png(60_000, 60_000, rows=600)
    yield "12,000 x 12,000 pixels", "png", png(12_000, 12_000)
    yield "a GIF of 65,535 x 65,535", "gif", bytes(gif)
    yield "a TIFF of 60,000 x 60,000", "tif", tiff(60_000, 60_000)
    yield (
        "a BMP of 60,000 x 60,000",
        "bmp",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    )
    yield "a PPM of 60,000 x 60,000", "ppm", b"P6 60000 60000 255\n"
    yield (
        "a WebP of 16,384 x 16,384",
        "webp",
        b"RIFF\x20\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(9),
    )
    yield (
        "text of 300 MB in a PNG",
        "png",
        png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 9))),
    )
    yield (
        "a profile of 300 MB in a PNG",
        "png",
        png(4, 4, (b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000_000)))),
    )
    yield "PostScript", "png", postscript
    yield "PostScript called a JPEG", "jpg", postscript
    yield "a pickle", "png", file_of_pickle(ground).read_bytes()
    yield "Python", "png", f"import os; os.system('{ground.touch('python')}')".encode()
    yield "a picture and a zip archive in one", "png", png(9, 9) + zip_of({"data.pkl": pickle.dumps(1)})
    yield "an SVG", "png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "an icon", "png", b"\0\0\1\0\1\0" + bytes(40)
    yield "a picture of no size", "png", png(0, 0)


def zip_of(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def figures(ground: Ground) -> Iterator[tuple[str, str]]:
    """Files for a results.json, or text for one of its words."""
    honest = json.loads((ground.run / "results.json").read_text())
    yield "lists 100,000 deep", "[" * 100_000 + "]" * 100_000
    yield "sections 100,000 deep", '{"data":' * 100_000
    yield (
        "a terminal's commands",
        json.dumps(honest | {"optimizer": "\x1b[2J\x1b]0;gone\a\u202e\n=cmd|' /C calc'"}),
    )
    yield (
        "an endless figure",
        json.dumps(honest)
        .replace('"metrics": {', '"metrics": {"val/acc": 1, ')
        .replace(f'"val/acc": {json.dumps(honest["metrics"]["val/acc"])}', f'"val/acc": 1{"0" * 400}'),
    )
    yield "a figure of 5,000 digits", json.dumps(honest).replace('"seed": 0', f'"seed": {"9" * 5000}')
    yield "figures that are lists", json.dumps(honest | {"metrics": [[]], "status": [], "data": 3})
    yield "a status that is a number", json.dumps(honest | {"status": 7})
    yield "no text", "\0\x1b[2J"


# All of them ----------------------------------------------------------------------------------------------

TEST = ["task=test", "hydra.run.dir=tested"]
FIT = ["model=fashion_mnist", "trainer.max_epochs=1", "hydra.run.dir=fitted"]
# What does no harm, since it is a word or a number among others, or since nobody reads it.
HARMLESS = {
    "names that are a terminal's commands", "a name out of the folder", "a terminal's commands",
    "a picture and a zip archive in one", "a keeper's own method", "a keeper's own path",
    "a position beyond the epoch",
}  # fmt: skip


class Corpus:
    """Every hostile file, each in a folder of its own."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.cases: dict[str, Case] = {}
        self.checkpoints()
        self.run_directories()
        self.images()

    def place(self, name: str) -> Path:
        file = self.ground.root / f"{len(self.cases)}" / name
        file.parent.mkdir(parents=True)
        return file

    def add(self, kind: str, file: Path, typed: list[str], says: str) -> None:
        assert kind not in self.cases, kind
        harmless = kind.split(": ")[-1] in HARMLESS
        self.cases[kind] = Case(file.parent, typed, None if harmless else says)

    def checkpoints(self) -> None:
        ground = self.ground
        for kind, write in pickles(ground):
            write(file := self.place("hostile.ckpt"))
            self.add(f"checkpoint: {kind}", file, [*TEST, f"checkpoint={file}"], f"{file}: ")
        for kind, path, content in damage():
            torch.save(laid(ground.saved(), path, content), file := self.place("hostile.ckpt"))
            self.add(f"checkpoint: {kind}", file, [*TEST, f"checkpoint={file}"], "error: ")
        for kind, path, content in list(configs(ground))[:6]:
            whole = ground.saved()
            whole["smallvision"]["config"] = laid(whole["smallvision"]["config"], path, content)
            torch.save(whole, file := self.place("hostile.ckpt"))
            self.add(f"checkpoint: {kind}", file, [*TEST, f"checkpoint={file}"], f"error: {path[0]}")

    def run_directories(self) -> None:
        ground = self.ground

        def theirs() -> Path:
            run = self.place("theirs")
            shutil.copytree(ground.run, run)
            return run

        for kind, path, content in states():
            run = theirs()
            (run / "checkpoints/best.ckpt").unlink()
            torch.save(laid(ground.saved(), path, content), run / "checkpoints/last.ckpt")
            typed = [f"resume={run}", "trainer.max_epochs=2"]
            self.add(f"run: {kind}", run, typed, "/checkpoints/last.ckpt: ")
        for kind, path, content in configs(ground):
            run = theirs()
            (run / "config.yaml").write_text(yaml.safe_dump(laid(ground.config(), path, content)))
            self.add(f"run: {kind}", run, [f"resume={run}", "trainer.max_epochs=2"], f"error: {path[0]}")
        for kind, text in texts(ground):
            run = theirs()
            (run / "config.yaml").write_text(text)
            self.add(f"config.yaml: {kind}", run, [f"resume={run}"], f"{run}/config.yaml: ")
        for kind, text in figures(ground):
            run = theirs()
            (run / "results.json").write_text(text)
            self.add(f"results.json: {kind}", run, ["task=report", f"runs={run}"], f"{run}/results.json: ")
        run = theirs()
        (run / "results.json").unlink()
        os.mkfifo(run / "results.json")
        self.add("results.json: a pipe", run, ["task=report", f"runs={run}"], f"runs={run}: no runs there")

    def images(self) -> None:
        for kind, write in archives(self.ground):
            write(file := self.place("hostile.npz"))
            typed = [*FIT, "data=arrays", f"data.path={file}", "data.val_size=4"]
            self.add(f"npz: {kind}", file, typed, f"{file}")
        for kind, suffix, content in [*pictures(self.ground), ("a pipe", "png", None)]:
            folder = self.place("images")
            for name in ("a", "b"):
                (folder / name).mkdir(parents=True)
                for level in range(4):
                    Image.new("RGB", (8, 8), (level, 0, 0)).save(folder / name / f"{level}.png")
            file = folder / f"a/hostile.{suffix}"
            os.mkfifo(file) if content is None else file.write_bytes(content)
            typed = [*FIT, "data=folder", f"data.path={folder}", "data.val_size=1", "data.size=8"]
            self.add(f"folder: {kind}", folder, typed, f"{file}: ")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, list[Forks], float]]:
    """An honest run, a package that leaves a mark when it is imported, and a Ghostscript that leaves one
    when it is started; two processes that have both; the memory that the honest run took.
    """
    root = tmp_path_factory.mktemp("ground")
    here = Ground(root, root / "run")
    here.marks.mkdir()
    (root / "marking.py").write_text(f"open({str(here.marks / 'imported')!r}, 'w')\ndef mark(*_, **__): pass\n")
    (root / "bin").mkdir()
    (root / "bin/gs").write_text(f"#!/bin/sh\n{here.touch('ghostscript')}\n")
    (root / "bin/gs").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        patch.setenv("PATH", f"{root / 'bin'}:{os.environ['PATH']}")
        forks = [Forks(), Forks()]
        honest = forks[0].run(root, [*SMALL, "hydra.run.dir=run"])
        assert honest["code"] == 0, (root / "out.txt").read_text()
        yield here, forks, honest["peak"]
        for one in forks:
            one.close()


def test_no_hostile_file_runs_anything_fills_the_memory_or_ends_in_a_traceback(
    ground: tuple[Ground, list[Forks], float],
) -> None:
    here, forks, honest_mb = ground
    cases = Corpus(here).cases
    assert len(cases) > 100

    def tried(number: int) -> list[str]:
        """What is wrong with how every second case ended."""
        return [
            f"{kind}: {word}"
            for kind, case in [*cases.items()][number::2]
            for word in wrong(case, forks[number].run(case.folder, case.typed, 60, err="err.txt", memory=24 * GIB))
        ]

    def wrong(case: Case, ended: dict[str, Any]) -> Iterator[str]:
        said, out = (case.folder / "err.txt").read_text(), (case.folder / "out.txt").read_text()
        if case.says is None:
            if ended["code"] != 0:
                yield f"exit code {ended['code']}: {said}"
        elif ended["code"] != 2 or not said.startswith("error: ") or said.count("\n") != 1:
            yield f"exit code {ended['code']}: {said or 'nothing said'}"
        elif case.says not in said:
            yield f"{case.says!r} is not in {said}"
        if not (out + said).replace("\n", "").isprintable():
            yield f"a terminal's commands are on the screen: {out + said!r}"
        if ended["peak"] > honest_mb + MORE_MB:
            yield f"took {ended['peak']:.0f} MB"

    with ThreadPoolExecutor(2) as pool:
        assert [line for lines in pool.map(tried, (0, 1)) for line in lines] == []
    marks = [mark.name for mark in here.marks.iterdir()]
    assert marks == []
    print(f"\n{len(cases)} hostile files tried, {len(marks)} marks")


# That the marks are real ----------------------------------------------------------------------------------


def test_the_same_payloads_leave_marks_where_they_are_opened_without_care(
    ground: tuple[Ground, list[Forks], float], tmp_path: Path
) -> None:
    here = Ground(tmp_path, ground[0].run)
    here.marks.mkdir()
    hostile = {kind: write for kind, write in pickles(here)}
    hostile["os.system beside the weights"](tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    pickle.loads(file_of_pickle(here).read_bytes())
    yaml.unsafe_load(dict(texts(here))["a tag that calls"])
    call = next(content for kind, _, content in configs(here) if kind.startswith("os.system"))
    pydoc.locate(call["_target_"])(call["command"])
    dict(archives(here))["objects in classes"](tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        arrays["classes"]
    assert {mark.name for mark in here.marks.iterdir()} == {"pickle", "loaded", "yaml", "target", "npz"}


def test_pillow_left_to_itself_starts_ghostscript(ground: tuple[Ground, list[Forks], float]) -> None:
    here, _, _ = ground
    content = next(content for kind, _, content in pictures(here) if kind == "PostScript")
    (here.root / "postscript.png").write_bytes(content)
    program = "from PIL import Image; Image.open('postscript.png').load()"
    subprocess.run([sys.executable, "-c", program], cwd=here.root, capture_output=True)
    assert (here.marks / "ghostscript").exists()
    (here.marks / "ghostscript").unlink()
