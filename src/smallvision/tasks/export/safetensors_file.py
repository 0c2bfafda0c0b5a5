"""What every exported file says of its network, and ``format=safetensors``: the weights with that as metadata.

A file of this format holds tensors and text and nothing that could run. Its text is checked as strictly as that of a
checkpoint.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import torch

from smallvision.config.fields import Length, accepts
from smallvision.config.schema import Config, Count, Positive
from smallvision.config.untrusted import MAX_ENTRIES, check_plain_data, validate_untrusted_config
from smallvision.core.errors import UserError
from smallvision.training.checkpoint import Checkpoint
from smallvision.training.model_spec import ModelSpec, no_larger_than
from smallvision.training.predictor import Predictor

VERSION = "1"  # of the metadata's format
MAX_HEADER = 1_000_000  # bytes; a run writes about 10,000
DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # in the format's own terms
KEYS = ("shape", "classes", "mean", "std", "data", "config")  # whose values are JSON
Form = tuple[tuple[int, ...], str]  # shape and dtype of a tensor


def make_metadata(predictor: Predictor) -> dict[str, str]:
    """Of an exported file. ``config`` is the run's own, with the views of the export."""
    spec, checkpoint = predictor.spec, predictor.checkpoint
    config = {**checkpoint.config, "tta": spec.tta}
    values = (spec.shape, spec.classes, spec.mean, spec.std, checkpoint.dataset, config)
    return {
        "smallvision": VERSION,
        "input": "images: uint8, N x C x H x W, 0 to 255",
        "output": "probabilities: float32, N x classes",
        **{key: json.dumps(value) for key, value in zip(KEYS, values, strict=True)},
    }


def identity(predictor: Predictor, metadata: dict[str, str]) -> str:
    """Sixteen hex digits that depend on the weights and on all that the metadata say of the network."""
    model = {**metadata, "config": json.dumps([predictor.spec.model, predictor.spec.tta])}
    digest = hashlib.sha256(json.dumps(model).encode())
    for name, tensor in sorted(predictor.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def to_bytes(predictor: Predictor, metadata: dict[str, str]) -> bytes:
    """The content of the file."""
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in predictor.state_dict().items()}, metadata)


def load(path: str | Path) -> Predictor:
    """The predictor in a .safetensors file that ``task=export`` wrote: call it with images, uint8, N x C x H x W.
    Its ``checkpoint`` has what the file says of the run, without its epoch.

    Raises UserError, naming the file, for any other file: truncated, with a config that no run could have, with
    weights that do not fit it. Nothing is allocated before its size is known to be that of the file's weights.
    """
    from safetensors import SafetensorError

    file = Path(path)
    try:
        return _load(file)
    except UserError as error:
        line = str(error)
        raise UserError(line if line.startswith(f"{file}: ") else f"{file}: {line}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: damaged, or not a .safetensors file ({str(error)[:120]})") from None


def _load(file: Path) -> Predictor:
    from safetensors import safe_open

    if not os.path.isfile(file):  # noqa: PTH113 - Path's own raises for a name that is too long
        raise UserError("no such file")
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")  # its length, with which the file begins
    if not 2 <= header <= min(MAX_HEADER, file.stat().st_size - 8):
        raise UserError("damaged, or not a .safetensors file of smallvision")
    with safe_open(file, "pt") as opened:  # type: ignore[no-untyped-call]
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        forms: dict[str, Form] = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        spec, config, dataset = _read_spec(file, opened.metadata() or {})
        try:
            with no_larger_than(shape for shape, _ in forms.values()), torch.device("meta"):
                _check_forms(Predictor(spec, spec.make_network()), forms)
            predictor = Predictor(spec, spec.make_network())
        except (RuntimeError, ArithmeticError, AssertionError) as error:  # of networks of impossible sizes
            raise UserError(f"its network cannot be built ({error})") from None
        weights = {name: opened.get_tensor(name) for name in forms}
    predictor.load_state_dict(weights)
    predictor.checkpoint = Checkpoint(file, spec, config, weights, 0, 0, dataset, position=None, raw={})
    return predictor.eval().requires_grad_(False)


def _read_spec(file: Path, metadata: dict[str, str]) -> tuple[ModelSpec, dict[str, Any], dict[str, Any]]:
    """What the metadata says of the network, the run's config and its data, if it has the form that ``task=export``
    writes.
    """
    if metadata.get("smallvision") != VERSION:
        raise UserError("not written by task=export of this smallvision")
    content = {}
    for key in KEYS:
        try:
            content[key] = json.loads(metadata[key])
        except (KeyError, ValueError, RecursionError):
            raise UserError(f"its {key} is missing or not JSON") from None
    saved = validate_untrusted_config(content["config"], str(file))
    config = Config.from_dict(saved)
    check_plain_data(content, str(file), 2 * MAX_ENTRIES)
    shape, classes, mean, std = (content[key] for key in ("shape", "classes", "mean", "std"))
    valid = {
        "shape": accepts(shape, Annotated[list[Count], Length(exact=3)]),
        "classes": isinstance(classes, list) and len(classes) > 0 and all(isinstance(name, str) for name in classes),
        "mean": accepts(mean, list[float]),
        "std": accepts(std, list[Positive]),
        "data": isinstance(content["data"], dict) and isinstance(content["data"].get("name"), str),
    }
    invalid = [name for name, good in valid.items() if not good]
    if not invalid and not len(mean) == len(std) == shape[0]:
        invalid = ["mean"]
    if invalid:
        raise UserError(f"its {invalid[0]} is not what a run writes")
    whiten, model = config.data.normalisation.whiten, config.model.to_dict()
    spec = ModelSpec(model, tuple(shape), classes, mean, std, whiten, config.tta.to_dict(), config.seed)
    return spec, saved, content["data"]


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
