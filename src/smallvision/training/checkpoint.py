"""Checkpoints: plain data, written completely or not at all, checked when read, and enough to rebuild the model."""

import os
import pickle
import pickletools
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import torch
from lightning.fabric.plugins.io import CheckpointIO
from torch import nn

from smallvision.config.fields import Length, Matches, Range, accepts
from smallvision.config.schema import Count, Natural, Seed
from smallvision.config.untrusted import check_checkpoint_file, check_plain_data, validate_untrusted_config
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.run_dir import atomic_write
from smallvision.training.model_spec import ModelSpec

FORMAT = 1
PREFIX = "predictor."  # of the Predictor's tensors in a LightningModule's state dict
MAX_ENTRIES = 1_000_000
# All that a checkpoint's pickle may name, apart from the kinds of storage. torch's own list for weights_only is
# longer, and a bytearray on it, say, fills the memory.
NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
Number = Annotated[int, Range(0, 2**63 - 1)]
# The type of each part, as far as an annotation says it; "smallvision" holds the last six.
FORM = {
    "state_dict": dict,
    "epoch": Number,
    "global_step": Number,
    "pytorch-lightning_version": Annotated[str, Matches(r"\d+(\.\d+)+(rc\d+|\.?(post|dev)\d+)?", "a version")],
    "shape": Annotated[list[Count], Length(exact=3)],
    "classes": Annotated[list, Length(1)],
    "mean": Annotated[list[float], Length(1)],
    "std": Annotated[list[float], Length(1)],
    "data": dict,
    "position": dict[str, Number] | None,
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file of a run holds, checked; on the CPU.

    ``config``: the run's own, as plain data; ``state_dict``: the tensors of its Predictor; ``epoch``: the one that
    it was saved in, from 1; ``step``: optimizer steps; ``dataset``: name, source and fingerprint of the images that
    it learned from; ``position``: the epoch and batch that training goes on from; ``raw``: the whole content, for
    the Trainer.
    """

    path: Path
    spec: ModelSpec
    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    epoch: int
    step: int
    dataset: dict[str, Any]
    position: dict[str, int] | None
    raw: dict[str, object]

    @property
    def module_weights(self) -> dict[str, torch.Tensor]:
        """All of the LightningModule's."""
        weights = self.raw["state_dict"]
        assert isinstance(weights, dict)
        return weights


@dataclass(frozen=True)
class BareWeights:
    """A file of names and tensors alone, as ``torch.save(model.state_dict(), path)`` writes it."""

    path: Path
    state_dict: dict[str, torch.Tensor]


# Reading ------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint of that file. Nothing in it is run. Raises UserError, naming the file, for any other file."""
    found = read_weights(path)
    if isinstance(found, BareWeights):
        raise UserError(
            f"{path}: not a checkpoint of smallvision, but a bare state dict: task=test model=NAME data=NAME tests it"
        )
    return found


def read_weights(path: Path) -> Checkpoint | BareWeights:
    """As :func:`read_checkpoint`, for whatever takes a bare state dict as well."""
    content = opened(path)
    if is_bare(content):
        incomplete = [name for name, tensor in content.items() if not dense(tensor)]
        if incomplete:
            raise UserError(f"{path}: its {incomplete[0]} is incomplete")
        return BareWeights(path, content)
    try:
        return _checked(path, content)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(f"{path}: ") else f"{path}: {line}") from None


def opened(path: Path) -> object:
    """What torch.save wrote: plain data and tensors, on the CPU. Nothing in the file is run.

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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged or not a checkpoint ({reason[:120]})") from None
    check_plain_data(content, str(path), MAX_ENTRIES, torch.Tensor)
    return content


def check_bytes(path: Path) -> None:
    """Raise BadZipFile where any part's checksum (CRC-32, which torch writes) is not that of its bytes, and
    UnpicklingError where a pickle names more than tensors and dicts.

    torch itself reads past flipped bits silently.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise zipfile.BadZipFile("compressed or overlapping parts")
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


def is_bare(content: object) -> TypeGuard[dict[str, torch.Tensor]]:
    """Whether it is a bare state dict: names and tensors, and nothing else."""
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    )


def dense(value: object) -> bool:
    """Whether all elements of a tensor are in memory: with strides of 0, one can stand for 10^9."""
    return isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() >= value.nbytes


def _checked(path: Path, content: object) -> Checkpoint:
    """Raise UserError at the first part that is missing or cannot be what it should be."""
    ours = content.get("smallvision") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(ours, dict) or "state_dict" not in content:
        raise UserError("not a checkpoint of smallvision")
    if not isinstance(ours.get("format"), int) or ours["format"] > FORMAT:
        raise UserError(
            f"written in format {ours.get('format')}, this smallvision reads up to {FORMAT};"
            " use the smallvision that wrote it"
        )
    parts = {**content, **ours}
    valid = {name: name in parts and accepts(parts[name], form) for name, form in FORM.items()}
    if all(valid.values()):
        data, position = parts["data"], parts["position"]
        valid = {
            "state_dict": all(isinstance(name, str) and dense(one) for name, one in parts["state_dict"].items()),
            "classes": all(isinstance(name, str) for name in parts["classes"]),
            "mean": len(parts["mean"]) == len(parts["std"]) == parts["shape"][0],
            "data": all(isinstance(data.get(key), str) for key in ("name", "source", "fingerprint")),
            "position": position is None or {"epoch", "batch"} <= position.keys(),
        }
    wrong = [name for name, good in valid.items() if not good]
    if wrong:
        raise UserError(f"not a checkpoint of smallvision: its {wrong[0]} is missing or cannot be")
    config = validate_untrusted_config(ours.get("config"), str(path))
    normalisation, tta, seed = config["data"].get("normalisation"), config.get("tta"), config.get("seed", -1)
    whiten = normalisation.get("whiten", -1) if isinstance(normalisation, dict) else -1
    if not (isinstance(tta, dict) and accepts(whiten, Natural) and accepts(seed, Seed)):
        raise UserError("does not hold the config of a run")
    weights, shape = parts["state_dict"], tuple(parts["shape"])
    return Checkpoint(
        path=path,
        spec=ModelSpec(config["model"], shape, parts["classes"], parts["mean"], parts["std"], whiten, tta, seed),
        config=config,
        state_dict={name.removeprefix(PREFIX): one for name, one in weights.items() if name.startswith(PREFIX)},
        epoch=parts["epoch"] + 1,
        step=parts["global_step"],
        dataset=data,
        position=position,
        raw=content,
    )


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Give a module the weights of the checkpoint ``path``. Raises UserError where they do not fit."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2][:200].strip()  # after a headline of torch's
        raise UserError(f"{path}: its weights do not fit its own config ({reason})") from None


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint of a run to go on from, and what is wrong with those that were newer.

    Damaged ones are renamed NAME.damaged, so that nothing good is ever replaced by them. None where the run had
    not saved yet. Raises UserError where it had, and none can be read.
    """
    found: list[Checkpoint] = []
    damaged: dict[Path, str] = {}
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: (path.name != "last.ckpt", path.name)):
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            damaged[path] = str(error)
            continue
        if path.name == "last.ckpt":
            return checkpoint, []
        found.append(checkpoint)
    if damaged and not found:
        raise UserError(f"{'; '.join(damaged.values())}; no other checkpoint is left in {folder}")
    for path in damaged:
        path.replace(path.with_name(f"{path.name}.damaged"))
    return max(found, key=lambda checkpoint: checkpoint.step, default=None), list(damaged.values())


# Writing ------------------------------------------------------------------------------------------------


class PlainCheckpointIO(CheckpointIO):
    """Tensors, numbers, strings, lists and dicts, in torch's own format; read with ``weights_only=True``.

    ``checkpoint``: the one to continue from, which has been read already. ``verify``: read the first one that is
    written, which code of the user's own may have given what cannot be read back; UserError names it.
    """

    def __init__(self, checkpoint: Checkpoint | None = None, verify: bool = False) -> None:
        self.checkpoint, self.verify = checkpoint, verify

    def save_checkpoint(
        self, checkpoint: Mapping[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """``storage_options``: how many older ones of last.ckpt are kept, None for the newest alone."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_older(path, storage_options if isinstance(storage_options, int) else 1)
        with atomic_write(path) as scratch, scratch.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's writer about what came in between: a full disk, a signal
                if isinstance(error.__context__, (OSError, Interrupted)):
                    raise error.__context__ from None
                raise
            if self.verify:
                file.flush()
                refuse_unreadable(scratch, path)
                self.verify = False

    def load_checkpoint(self, path: str | Path, *_: object, **__: object) -> dict[str, object]:
        if self.checkpoint is not None and self.checkpoint.path == Path(path):
            return {**self.checkpoint.raw}
        return read_checkpoint(Path(path)).raw

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def refuse_unreadable(scratch: Path, path: Path) -> None:
    """Raise UserError where what was just written, to become ``path``, cannot be read back."""
    try:
        opened(scratch)
    except UserError as error:
        reason = str(error).removeprefix(f"{scratch}: ")
        raise UserError(f"{path}: {reason}; a checkpoint keeps numbers, text, lists, dicts and tensors alone") from None


def copy(source: Path, target: Path, keep: int = 1) -> None:
    """``target`` becomes a copy of ``source``; ``keep``: see :func:`keep_older`."""
    keep_older(target, keep)
    with atomic_write(target) as scratch:
        shutil.copyfile(source, scratch)


def keep_older(path: Path, count: int) -> None:
    """Before ``path`` (last.ckpt) is written anew: let the ``count`` - 1 before it be last.1.ckpt, ..."""
    older = [path, *(path.with_suffix(f".{number}.ckpt") for number in range(1, count))]
    for newer, target in reversed(list(pairwise(older))):
        if newer is not path and newer.is_file():
            newer.replace(target)
    if count > 1 and path.is_file():
        older[1].unlink(missing_ok=True)
        try:
            os.link(path, older[1])  # path itself is there at every moment
        except OSError:  # a file system without links
            copy(path, older[1])
