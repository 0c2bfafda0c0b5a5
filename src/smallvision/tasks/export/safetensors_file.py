"""``format=safetensors``: the weights, and in the metadata what rebuilds the predictor around them.

A file of this format holds tensors and text and nothing that could run. Its text is checked as strictly as that of a
checkpoint.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch

from smallvision.config.fields import Length, accepts
from smallvision.config.schema import Config, Count, Positive
from smallvision.config.untrusted import MAX_ENTRIES, check_plain_data, validate_untrusted_config
from smallvision.core.errors import UserError
from smallvision.tasks.export.metadata import VERSION
from smallvision.training.model_spec import ModelSpec, no_larger_than
from smallvision.training.predictor import Predictor

MAX_HEADER = 1_000_000  # bytes; a run writes about 10,000
DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # in the format's own terms
KEYS = ("shape", "classes", "mean", "std", "data", "config")
Form = tuple[tuple[int, ...], str]  # shape and dtype of a tensor


def to_bytes(predictor: Predictor, metadata: dict[str, str]) -> bytes:
    """The content of the file."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in predictor.state_dict().items()}, metadata)


def load(path: str | Path) -> Predictor:
    """The predictor in a .safetensors file that ``task=export`` wrote: call it with images, uint8, N x C x H x W.

    Raises UserError, naming the file, for any other file: truncated, with a config that no run could have, with
    weights that do not fit it. Nothing is allocated before its size is known to be that of the file's weights.
    """
    file = Path(path)
    _check_header(file)
    try:
        return _load(file)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(f"{file}: ") else f"{file}: {line}") from None


def _check_header(file: Path) -> None:
    """A file begins with the length of its header, eight bytes, little-endian."""
    if not os.path.isfile(file):  # noqa: PTH113 - Path's own raises for a name that is too long
        raise UserError(f"{file}: no such file")
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    if not 2 <= length <= min(MAX_HEADER, file.stat().st_size - 8):
        raise UserError(f"{file}: damaged, or not a .safetensors file of smallvision")


def _load(file: Path) -> Predictor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:  # type: ignore[no-untyped-call]
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            forms: dict[str, Form] = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
            spec = _read_spec(file, opened.metadata() or {})
            with no_larger_than(shape for shape, _ in forms.values()), torch.device("meta"):
                _check_forms(_build(spec), forms)
            predictor = _build(spec)
            predictor.load_state_dict({name: opened.get_tensor(name) for name in forms})
    except (SafetensorError, OSError) as error:
        raise UserError(f"damaged, or not a .safetensors file ({str(error)[:120]})") from None
    return predictor.eval().requires_grad_(False)


def _read_spec(file: Path, metadata: dict[str, str]) -> ModelSpec:
    """What the metadata says of the network, if it has the form that ``task=export`` writes."""
    if metadata.get("smallvision") != VERSION:
        raise UserError("not written by task=export of this smallvision")
    content: dict[str, Any] = {}
    for key in KEYS:
        try:
            content[key] = json.loads(metadata[key])
        except (KeyError, ValueError, RecursionError):
            raise UserError(f"its {key} is missing or not JSON") from None
    saved = validate_untrusted_config(content["config"], str(file))
    typed = Config.from_dict(saved)
    check_plain_data(content, str(file), 2 * MAX_ENTRIES)
    shape, classes, mean, std = (content[key] for key in ("shape", "classes", "mean", "std"))
    valid = {
        "shape": accepts(shape, Annotated[list[Count], Length(exact=3)]),
        "classes": isinstance(classes, list) and len(classes) > 0 and all(isinstance(name, str) for name in classes),
        "mean": accepts(mean, list[float]),
        "std": accepts(std, list[Positive]),
    }
    invalid = [name for name, good in valid.items() if not good]
    if not invalid and not len(mean) == len(std) == shape[0]:
        invalid = ["mean"]
    if invalid:
        raise UserError(f"its {invalid[0]} is not what a run writes")
    return ModelSpec(
        model=saved["model"],
        shape=tuple(shape),
        classes=classes,
        mean=mean,
        std=std,
        whiten=typed.data.normalisation.whiten,
        tta=saved["tta"],
        seed=typed.seed,
    )


def _build(spec: ModelSpec) -> Predictor:
    """With initial weights."""
    try:
        return Predictor(spec, spec.make_network())
    except (RuntimeError, ArithmeticError, AssertionError) as error:  # of networks of impossible sizes
        raise UserError(f"its network cannot be built ({error})") from None


def _check_forms(predictor: Predictor, forms: dict[str, Form]) -> None:
    """The file must have the tensors of the predictor, no others, with their shapes and dtypes."""
    expected = predictor.state_dict()
    for name in sorted(expected.keys() ^ forms.keys()):
        verb = "has no" if name in expected else "has a"
        raise UserError(f"its weights do not fit its own config ({verb} {name[:80]!r})")
    for name, tensor in expected.items():
        form = (tuple(tensor.shape), DTYPES.get(tensor.dtype, str(tensor.dtype)))
        if forms[name] != form:
            raise UserError(f"its weights do not fit its own config ({name} is {forms[name]}, not {form})")
