"""`format=safetensors`: the weights, and in the metadata what rebuilds the network around them.

A file of that format holds numbers and words and nothing that could run; what it says is held against the
same rules as a checkpoint.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from smallvision.config.fields import Length, accepts
from smallvision.config.schema import Config, Count, Positive
from smallvision.config.untrusted import MOST_ENTRIES, check_plain_data, validate_untrusted_config
from smallvision.core.errors import UserError
from smallvision.tasks.export.module import Standalone
from smallvision.tasks.export.said import VERSION
from smallvision.training.layers import TestTimeAugmentation, Whiten
from smallvision.training.model_spec import ModelSpec, no_larger_than

MOST_HEADER = 1_000_000  # bytes; a run writes some 10,000
# Of tensors, in the format's own words.
KINDS = {torch.float32: "F32", torch.int64: "I64"}
Forms = dict[str, tuple[tuple[int, ...], str]]  # shape and kind of each tensor
KEYS = ("shape", "classes", "mean", "std", "data", "config")


def made(module: Standalone, words: dict[str, str]) -> bytes:
    """The file's bytes. ``words`` must hold "config"."""
    from safetensors.torch import save

    return save({name: one.contiguous() for name, one in module.state_dict().items()}, words)


def load(path: str | Path) -> Standalone:
    """The module of a .safetensors file of ours, from the file alone, ready to be called.

    Raises UserError, naming the file, where it is none: truncated, larger than it need be, a config that no
    run could go by, weights that do not fit it. Nothing is built before its size is known to be that of
    the weights.
    """
    file = Path(path)
    _refuse_header(file)
    try:
        return _loaded(file)
    except UserError as refusal:
        line = str(refusal)
        raise UserError(line if line.startswith(f"{file}: ") else f"{file}: {line}") from None


def _loaded(file: Path) -> Standalone:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:  # type: ignore[no-untyped-call]
            words = opened.metadata() or {}
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            forms = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
            content = _read(file, words)
            with no_larger_than(shape for shape, _ in forms.values()), torch.device("meta"):  # shapes alone
                _refuse_misfit(file, _build(file, content), forms)
            module = _build(file, content)
            module.load_state_dict({name: opened.get_tensor(name) for name in forms})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged, or not a .safetensors file ({str(error)[:120]})") from None
    return module


def _refuse_header(file: Path) -> None:
    """The format begins with the length of its header, eight bytes, little-endian."""
    if not os.path.isfile(file):  # noqa: PTH113 - Path's own raises for a name that is too long
        raise UserError(f"{file}: no such file")
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if not 2 <= length <= min(MOST_HEADER, file.stat().st_size - 8):
        raise UserError(f"{file}: damaged, or not a .safetensors file of smallvision")


def _read(file: Path, words: dict[str, str]) -> dict[str, Any]:
    """The metadata, if it has the form of ours."""
    if words.get("smallvision") != VERSION:
        raise UserError(f"{file}: not written by this smallvision's task=export")
    content: dict[str, Any] = {}
    for key in KEYS:
        try:
            content[key] = json.loads(words[key])
        except (KeyError, ValueError, RecursionError):
            raise UserError(f"{file}: its {key} is missing or cannot be read") from None
    config = validate_untrusted_config(content["config"], str(file))
    typed = Config.from_dict(config)
    check_plain_data(content, str(file), 2 * MOST_ENTRIES)
    shape, classes = content["shape"], content["classes"]
    holds = {
        "shape": accepts(shape, Annotated[list[Count], Length(exact=3)]),
        "classes": isinstance(classes, list) and len(classes) > 0 and all(isinstance(one, str) for one in classes),
    }
    if all(holds.values()):
        channels = shape[0]
        holds["mean"] = accepts(content["mean"], Annotated[list[float], Length(exact=channels)])
        holds["std"] = accepts(content["std"], Annotated[list[Positive], Length(exact=channels)])
        holds["tta.shift"] = typed.tta.shift < min(shape[1:])
    for name, good in holds.items():
        if not good:
            raise UserError(f"{file}: its {name} cannot be")
    return content


def _build(file: Path, content: dict[str, Any]) -> Standalone:
    """The network of that config, its weights still those of a beginning."""
    config = Config.from_dict(content["config"])
    channels, height, width = content["shape"]
    shape = (channels, height, width)
    try:
        side = config["data"]["normalisation"]["whiten"]
        spec = ModelSpec(
            config["model"], shape, content["classes"], content["mean"], content["std"], side, config["tta"]
        )
        whiten = Whiten(channels, side) if side else None
        network = spec.make_network()
    except (RuntimeError, ArithmeticError, AssertionError) as error:  # what build itself does not expect
        raise UserError(f"{file}: its network cannot be built ({error})") from None
    return Standalone(
        network,
        content["mean"],
        content["std"],
        shape=shape,
        classes=content["classes"],
        whiten=whiten,
        views=TestTimeAugmentation(**config["tta"]),
    )


def _refuse_misfit(file: Path, module: Standalone, forms: Forms) -> None:
    """The file must have the tensors of the module, no others, in their shapes and kinds."""
    wanted: dict[str, Tensor] = module.state_dict()
    for name in sorted(wanted.keys() ^ forms.keys()):
        said = "has no" if name in wanted else "has a"
        raise UserError(f"{file}: its weights do not fit its own config ({said} {name[:80]!r})")
    for name, tensor in wanted.items():
        shape, kind = forms[name]
        own = KINDS.get(tensor.dtype, str(tensor.dtype))
        if shape != tuple(tensor.shape) or kind != own:
            raise UserError(
                f"{file}: its weights do not fit its own config ({name} is {kind} {list(shape)},"
                f" not {own} {list(tensor.shape)})"
            )


class Opened:
    """The file in safetensors and this project."""

    def __init__(self, file: Path) -> None:
        self.module = load(file)

    def __call__(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.module(images)
        return probabilities


def runtime() -> str:
    import safetensors

    return f"safetensors {safetensors.__version__}, torch {torch.__version__}"
