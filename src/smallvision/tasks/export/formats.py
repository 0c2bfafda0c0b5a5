"""The formats, and how a file of each is made, proven and put in its place."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smallvision.core.errors import UserError
from smallvision.core.run_dir import atomic_write
from smallvision.tasks.export import onnx_model, program, weights
from smallvision.tasks.export.compared import LIMIT, Agreement, Runtime, compare
from smallvision.tasks.export.module import Standalone
from smallvision.tasks.export.quiet import quiet
from smallvision.tasks.export.record import Export
from smallvision.tasks.export.sample import Sample


@dataclass(frozen=True)
class Format:
    """``file``: its name in a run directory; ``made``: its bytes; ``opened``: the file in its own runtime;
    ``runtime``: that runtime in words; ``rebuilt``: by the config in its metadata.
    """

    file: str
    made: Callable[[Standalone, dict[str, str]], bytes]
    opened: Callable[[Path], Runtime]
    runtime: Callable[[], str]
    rebuilt: bool = False


FORMATS = {
    "onnx": Format("model.onnx", onnx_model.made, onnx_model.Opened, onnx_model.runtime),
    "torch_export": Format("model.pt2", program.made, program.Opened, program.runtime),
    "safetensors": Format("model.safetensors", weights.made, weights.Opened, weights.runtime, True),
}


def export(name: str, module: Standalone, words: dict[str, str], of: str, seen: Sample, folder: Path) -> Export:
    """Write ``module`` to ``folder`` in the format of that name, and prove it on the images of ``seen``.

    The file takes its place only once it has been opened in its own runtime and computes what the module
    does. ``words``: its metadata; ``of``: what it is made of (see said.identity).

    Raises UserError where it computes something else, where the network cannot be had in that format, or
    where the file cannot be written.
    """
    form, started = FORMATS[name], time.perf_counter()
    content = _made(name, module, words)
    file = folder / form.file
    try:
        with atomic_write(file) as scratch:
            scratch.write_bytes(content)
            agreement = _proven(form, scratch, module, seen)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written: {error.strerror or error}; hydra.run.dir=DIRECTORY chooses another place"
        ) from None
    return Export(
        format=name,
        file=form.file,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        of=of,
        difference=agreement.difference,
        agreed=agreement.agreed,
        images=agreement.images,
        batches=", ".join(f"{size:,}" for size in dict.fromkeys(agreement.batches)),
        compared_on=seen.words,
        caution=seen.caution,
        runtime=form.runtime(),
        seconds=time.perf_counter() - started,
    )


def _made(name: str, module: Standalone, words: dict[str, str]) -> bytes:
    if not FORMATS[name].rebuilt:
        words = {key: value for key, value in words.items() if key != "config"}
    try:
        with quiet():
            return FORMATS[name].made(module, words)
    except UserError:
        raise
    except Exception as error:  # torch's exporters raise a dozen kinds about a network that they cannot follow
        said = (str(error).splitlines() or [""])[0][:200]
        other = "safetensors" if name != "safetensors" else "onnx"
        raise UserError(
            f"format={name}: this network cannot be exported so ({type(error).__name__}: {said}); format={other} may do"
        ) from error


def _proven(form: Format, scratch: Path, module: Standalone, seen: Sample) -> Agreement:
    """How the file compares; UserError where it does not give what the network gives."""
    try:
        with quiet():
            agreement = compare(module, form.opened(scratch), seen.images)
    except (UserError, OSError):
        raise
    except Exception as error:  # each runtime has kinds of its own
        said = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{form.file}: not kept: {form.runtime()} cannot run it ({type(error).__name__}: {said})"
        ) from error
    if math.isnan(agreement.difference):
        raise UserError(f"{form.file}: not kept: the network gives no numbers; its training went astray")
    if not agreement.close:
        raise UserError(
            f"{form.file}: not kept: on {agreement.images:,} images its probabilities differ from the"
            f" network's by up to {agreement.difference:.3g}, and {LIMIT:g} is allowed;"
            f" {agreement.agreed:,} predicted classes agree"
        )
    return agreement
