"""Bare state dicts: `torch.save(model.state_dict(), "model.pt")`, as tutorials save a network and load it.

Such a file does not name its network, its data or its normalisation: these are typed on the command line.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from smallvision.core.errors import UserError
from smallvision.models.pretrained import PretrainedNetwork, is_file
from smallvision.training.checkpoint import Checkpoint, PlainCheckpointIO, dense, is_bare, read_weights

SAYS_NOTHING = "a bare state dict, which does not say its network"
PREFIX = "network."  # of the network's own tensors in a Predictor's state dict


def target(save_model: str | None, run_dir: Path) -> Path | None:
    """Where ``save_model`` is to be written: in the run directory, or at an absolute path.

    Raises UserError where nothing could be written there.
    """
    if save_model is None:
        return None
    typed = Path(os.path.expanduser(save_model))  # noqa: PTH111 - Path's own raises for an unknown user
    path = run_dir / typed
    try:
        if path.is_dir():
            raise UserError(f"save_model={save_model}: is a folder; name a file in it")
        folder = next(one for one in path.parents if one.exists())
        inside = folder.resolve().is_relative_to(run_dir.resolve())
    except OSError as error:
        raise UserError(f"save_model={save_model}: cannot be written: {error.strerror}") from None
    if not (inside or typed.is_absolute() or ".." in typed.parts):  # those were typed by the user
        raise UserError(f"save_model={save_model}: a link leads out of the run directory; type the whole path")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"save_model={save_model}: cannot be written; choose another")
    return path


def write(state_dict: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    """The ``network``'s part of a checkpoint's ``state_dict`` as a file of its own, completely or not at all.

    A network that is a tutorial's own class has that class's names (its ``plain_name``), others have theirs.
    Raises OSError where it cannot be written.
    """
    name_of = getattr(network, "plain_name", str)
    own = {name.removeprefix(PREFIX): tensor for name, tensor in state_dict.items() if name.startswith(PREFIX)}
    plain = {name_of(name): tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    PlainCheckpointIO().save_checkpoint(plain, path)


def fitted(content: dict[str, Tensor], network: nn.Module, file: Path, model: str) -> dict[str, Tensor]:
    """The same tensors under the network's own names.

    Another class may call the same layers otherwise: where the names differ, the tensors are taken in their
    order, which is that of the layers. ``model``: the network's name, for error messages.

    Raises UserError at the first tensor that does not fit.
    """
    own = network.state_dict()
    pairs = [(name, name) for name in own]
    if content.keys() != own.keys():
        pairs = list(zip(content, own, strict=False))
    for theirs, ours in pairs:
        found, wanted = content[theirs], own[ours]
        same_place = theirs == ours or theirs not in own
        same_part = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        same_kind = found.is_floating_point() == wanted.is_floating_point() and not found.is_complex()
        if not (same_place and same_part and same_kind and found.shape == wanted.shape):
            raise UserError(
                f"{file}: its {theirs} ({_form(found)}) does not fit model={model}, which has"
                f" {ours} ({_form(wanted)}) there"
            )
    if len(content) != len(own):
        raise UserError(f"{file}: has {len(content)} tensors, model={model} has {len(own)}: it is another network's")
    return {ours: content[theirs] for theirs, ours in pairs}


def _form(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind}, {' x '.join(map(str, tensor.shape)) or 'one number'}"


def load_pretrained(network: PretrainedNetwork) -> None:
    """Fill all but the head of ``network`` from what its ``weights`` name. Raises UserError where they do not fit."""
    assert network.weights is not None
    path, key = Path(network.weights), f"model.weights={network.weights}"
    try:
        if not is_file(network.weights):
            return network.load(network.published())
        weights, side = _read(path)
        if side is not None and network.image_size is None:
            raise UserError(f"{key}: of a run of smallvision: type the side of its images, model.image_size={side}")
        return network.load(weights)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None


def _read(path: Path) -> tuple[Mapping[str, Tensor], int | str | None]:
    """The tensors of a file, read as plain data, and the side of the images of a run's own file."""
    content: object
    if zipfile.is_zipfile(path):
        found = read_weights(path)
        if isinstance(found, Checkpoint):
            side = found.config["model"].get("image_size") or found.spec.shape[1]
            own = {name.removeprefix(PREFIX): one for name, one in found.state_dict.items() if name.startswith(PREFIX)}
            return own, side
        return found.state_dict, "SIDE" if "mean" in found.state_dict else None
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:  # the format of torch before 1.6, which libraries still publish
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can surface as any kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged or no weights ({reason[:120]})") from None
    if not is_bare(content) or not all(map(dense, content.values())):
        raise UserError(f"{path}: not a state dict: names and tensors, and nothing else")
    return content, None
