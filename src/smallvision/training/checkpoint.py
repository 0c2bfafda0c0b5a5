"""Checkpoints: plain, written whole or not at all, checked when read, and enough to rebuild the model."""

import os
import pickle
import pickletools
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from smallvision.config.untrusted import check_checkpoint_file, check_plain_data
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.run_dir import atomic_write

FORMAT = 1
NEEDED = ("config", "shape", "classes", "mean", "std", "data")  # what rebuilds a model
MOST_ENTRIES = 1_000_000
# All that a checkpoint's pickle may name beside the kinds of storage. torch's own list for weights_only is
# longer, and a bytearray on it, say, fills the memory.
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}


def _whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _row(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(one, kinds) for one in value)


def dense(value: Any) -> bool:
    """Whether a tensor's elements are all there: one can stand for a milliard."""
    return isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() >= value.nbytes


def is_bare(content: Any) -> bool:
    """Whether it is a bare state dict: names and tensors, and nothing else."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(one, torch.Tensor) for name, one in content.items())
    )


# What is taken out of a checkpoint before a model is there to hold it against.
FORMS: dict[str, Callable[[Any], bool]] = {
    "state_dict": lambda v: isinstance(v, dict) and all(isinstance(key, str) and dense(one) for key, one in v.items()),
    "epoch": _whole,
    "global_step": _whole,
    "pytorch-lightning_version": lambda v: (
        isinstance(v, str) and bool(re.match(r"\d+(\.\d+)+(rc\d+|\.?(post|dev)\d+)?$", v))
    ),
    "shape": lambda v: _row(v, int) and len(v) == 3 and min(v) > 0,
    "classes": lambda v: _row(v, str),
    "mean": lambda v: _row(v, (int, float)),
    "std": lambda v: _row(v, (int, float)),
    "data": lambda v: (
        isinstance(v, dict) and all(isinstance(v.get(key), str) for key in ("name", "source", "fingerprint"))
    ),
    "position": lambda v: v is None or (isinstance(v, dict) and all(_whole(v.get(key)) for key in ("epoch", "batch"))),
}


class PlainCheckpointIO(CheckpointIO):
    """Tensors, numbers, strings, lists and dicts, in torch's own format; read with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as scratch, scratch.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's writer about what came in between: a full disk, a signal
                if isinstance(error.__context__, (OSError, Interrupted)):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return {**read(Path(path)), "file": str(path)}

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """``target`` becomes a copy of ``source``."""
    with atomic_write(target) as scratch:
        shutil.copyfile(source, scratch)


def keep_older(path: Path, count: int) -> None:
    """Before ``path`` (last.ckpt) is written anew: let the ``count`` - 1 before it be last.1.ckpt, ..."""
    older = [path, *(path.with_suffix(f".{number}.ckpt") for number in range(1, count))]
    for newer, target in reversed(list(pairwise(older))):
        if not newer.is_file():
            continue
        if newer is not path:
            newer.replace(target)
            continue
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)  # path itself is there at every moment
        except OSError:  # a file system without links
            copy(path, target)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint of a run to go on from, and what is wrong with those that were newer.

    Damaged ones are set aside as NAME.damaged, so that nothing good is ever replaced by them. None where
    the run had not saved yet. Raises UserError where it had, and none can be read.
    """
    found: list[tuple[int, Path]] = []
    damaged: dict[Path, str] = {}
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: (path.name != "last.ckpt", path.name)):
        try:
            step = int(read(path)["global_step"])
        except UserError as refusal:
            damaged[path] = str(refusal)
            continue
        if path.name == "last.ckpt":
            return path, []
        found.append((step, path))
    if damaged and not found:
        raise UserError(f"{'; '.join(damaged.values())}; no other checkpoint is left in {folder}")
    for path in damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))
    best = max(found, key=lambda one: one[0])[1] if found else None
    return best, list(damaged.values())


def check_bytes(path: Path) -> None:
    """Raise BadZipFile where any part's checksum (CRC-32, which torch writes) is not that of its bytes, and
    UnpicklingError where a pickle names more than tensors and dicts.

    torch itself reads past flipped bits without a word.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise zipfile.BadZipFile("parts that are packed, or lie one in the other")
        wrong = archive.testzip()
        if wrong is not None:
            raise zipfile.BadZipFile(f"checksum of {wrong}")
        for part in parts:
            if part.filename.endswith(".pkl"):
                refuse_other_names(archive.read(part))


def refuse_other_names(pickled: bytes) -> None:
    """Raise UnpicklingError where a pickle names anything but tensors, their storages and dicts."""
    for code, name, _ in pickletools.genops(pickled):
        storage = str(name).startswith("torch ") and str(name).endswith("Storage")
        if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):  # torch's own writer has none
            raise pickle.UnpicklingError(code.name)
        if code.name == "GLOBAL" and name not in NAMES and not storage:
            raise pickle.UnpicklingError(name)


def opened(path: Path) -> Any:
    """What torch.save wrote, on the CPU: plain data and tensors. Nothing in the file is run.

    Raises UserError, naming the file, where it is damaged or holds anything else.
    """
    check_checkpoint_file(path)
    try:
        check_bytes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is not torch's own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than plain data, so it is not opened") from None
    except Exception as error:  # damage can surface as any kind
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged or not a checkpoint ({said[:120]})") from None
    check_plain_data(content, str(path), MOST_ENTRIES, torch.Tensor)
    return content


def read(path: Path) -> dict[str, Any]:
    """The whole checkpoint, on the CPU. Nothing in the file is run. Raises UserError, naming the file."""
    checkpoint = opened(path)
    ours = checkpoint.get("smallvision") if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or "state_dict" not in checkpoint:
        hint = ", but a bare state dict: task=test model=NAME data=NAME tests it" if is_bare(checkpoint) else ""
        raise UserError(f"{path}: not a checkpoint of smallvision{hint}")
    if not isinstance(ours.get("format"), int) or ours["format"] > FORMAT:
        raise UserError(
            f"{path}: written in format {ours.get('format')}, this smallvision reads up to {FORMAT};"
            " use the smallvision that wrote it"
        )
    missing = [name for name in NEEDED if name not in ours]
    if missing:
        raise UserError(f"{path}: not a checkpoint of smallvision: it lacks {', '.join(missing)}")
    if "position" not in ours:  # the first ones have it where Lightning looks for it
        ours["position"] = _first_position(checkpoint)
    wrong = [name for name, holds in FORMS.items() if not holds({**checkpoint, **ours}.get(name))]
    if not wrong and not len(ours["mean"]) == len(ours["std"]) == ours["shape"][0]:
        wrong = ["mean"]
    if wrong:
        raise UserError(f"{path}: not a checkpoint of smallvision: its {wrong[0]} cannot be")
    return checkpoint


def _first_position(checkpoint: dict[str, Any]) -> Any:
    try:
        return checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    except (KeyError, IndexError, TypeError):
        return None
