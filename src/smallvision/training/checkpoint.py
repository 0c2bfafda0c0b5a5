"""Checkpoints: plain, written whole or not at all, and enough to rebuild the model."""

import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from smallvision.errors import Refusal
from smallvision.files import written_whole
from smallvision.saved import refuse_other_files

FORMAT = 1
NEEDED = ("config", "shape", "classes", "mean", "std", "data")  # what rebuilds a model


class PlainCheckpointIO(CheckpointIO):
    """Tensors, numbers, strings, lists and dicts, in torch's own format; read with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with written_whole(Path(path)) as scratch:
            torch.save(checkpoint, scratch)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """``target`` becomes a copy of ``source``."""
    with written_whole(target) as scratch:
        shutil.copyfile(source, scratch)


def read(path: Path) -> dict[str, Any]:
    """The whole checkpoint, on the CPU. Nothing in the file is run. Raises Refusal, naming the file."""
    refuse_other_files(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is not torch's own
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise Refusal(f"{path}: holds more than plain data, so it is not opened") from None
    except Exception as error:  # damage can surface as any kind
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(f"{path}: damaged or not a checkpoint ({said[:120]})") from None
    ours = checkpoint.get("smallvision") if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or "state_dict" not in checkpoint:
        raise Refusal(f"{path}: not a checkpoint of smallvision")
    if not isinstance(ours.get("format"), int) or ours["format"] > FORMAT:
        raise Refusal(
            f"{path}: written in format {ours.get('format')}, this smallvision reads up to {FORMAT};"
            " use the smallvision that wrote it"
        )
    missing = [name for name in NEEDED if name not in ours]
    if missing:
        raise Refusal(f"{path}: not a checkpoint of smallvision: it lacks {', '.join(missing)}")
    return checkpoint
