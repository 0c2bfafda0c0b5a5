"""The file formats: how a predictor is written in each, how such a file is run, and whether both compute the same."""

import hashlib
import io
import json
import logging
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.core.run_dir import atomic_write
from smallvision.tasks.export import safetensors_file
from smallvision.tasks.export.card import Export
from smallvision.training.predictor import Predictor

LIMIT = 1e-5  # between two probabilities; summing in another order already changes float32 by 1e-7
# Sizes of the batches, the last one repeated: a file that fixes the number of images fails at the second batch.
BATCHES = (1, 7, 248)

Runtime = Callable[[Tensor], Tensor]  # images (uint8, N x C x H x W) become probabilities (float32, N x classes)


@dataclass(frozen=True)
class TestImages:
    """``images``: uint8, N x C x H x W; ``caution``: why they are not test images of the chosen data, None where
    they are.
    """

    __test__ = False

    images: Tensor
    description: str
    caution: str | None = None


class ExportFormat(ABC):
    """``name``: as ``format=`` takes it; ``file``: in the run directory."""

    name: str
    file: str

    @abstractmethod
    def to_bytes(self, predictor: Predictor, metadata: dict[str, str]) -> bytes:
        """The content of the file: ``predictor``, for any number of images, and ``metadata``."""

    @abstractmethod
    def open(self, file: Path) -> Runtime:
        """The file in its own runtime, ready to be called."""

    @abstractmethod
    def runtime(self) -> str:
        """Name and version of that runtime."""

    def export(self, predictor: Predictor, images: TestImages, folder: Path) -> Export:
        """Write the file to ``folder``, once it has been opened in its runtime and agrees with ``predictor``.

        Raises UserError where the network cannot be written in this format, where the file computes something else,
        or where it cannot be written.
        """
        started = time.perf_counter()
        path, metadata = folder / self.file, safetensors_file.make_metadata(predictor)
        try:
            with silence_output():
                content = self.to_bytes(predictor, metadata)
        except UserError:
            raise
        except Exception as error:  # torch's exporters raise a dozen types for a network that they cannot trace
            other = "onnx" if self.name == "safetensors" else "safetensors"
            raise UserError(
                f"format={self.name}: this network cannot be exported in this format ({_one_line(error)});"
                f" try format={other}"
            ) from error
        try:
            with atomic_write(path) as scratch:
                scratch.write_bytes(content)
                difference, agreed, batches = self.verify(scratch, predictor, images.images)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror or error}; hydra.run.dir=DIRECTORY chooses another place"
            ) from None
        return Export(
            format=self.name,
            file=self.file,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            of=safetensors_file.identity(predictor, metadata),
            difference=difference,
            agreed=agreed,
            images=len(images.images),
            batches=", ".join(f"{size:,}" for size in dict.fromkeys(batches)),
            compared_on=images.description,
            caution=images.caution,
            runtime=self.runtime(),
            seconds=time.perf_counter() - started,
        )

    def verify(self, file: Path, predictor: Predictor, images: Tensor) -> tuple[float, int, list[int]]:
        """The largest difference between two probabilities of the file and of the ``predictor`` (in eager float32 on
        the CPU), how many images get the same class, and the sizes of the batches.

        Raises UserError where the file cannot be run, and where the difference is above ``LIMIT`` or NaN.
        """
        batches: list[int] = []
        while (left := len(images) - sum(batches)) > 0:
            batches.append(min(left, BATCHES[min(len(batches), len(BATCHES) - 1)]))
        try:
            with silence_output(), torch.no_grad():
                difference, agreed = compare(predictor, self.open(file), images.split(batches))
        except (UserError, OSError):
            raise
        except Exception as error:  # each runtime has types of its own
            raise UserError(f"{self.file}: not kept: {self.runtime()} cannot run it ({_one_line(error)})") from error
        if math.isnan(difference):
            raise UserError(f"{self.file}: not kept: the network's probabilities are NaN; its training diverged")
        if difference > LIMIT:
            raise UserError(
                f"{self.file}: not kept: on {len(images):,} images its probabilities in {self.runtime()} differ from"
                f" the network's by up to {difference:.3g}; {LIMIT:g} is allowed ({agreed:,} predicted classes agree)"
            )
        return difference, agreed, batches


def compare(predictor: Predictor, runtime: Runtime, batches: tuple[Tensor, ...]) -> tuple[float, int]:
    """The largest difference between two probabilities, and how many images get the same class."""
    difference, agreed = torch.zeros(()), 0
    for batch in batches:
        expected, found = predictor(batch), runtime(batch)
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return math.inf, 0
        difference = torch.maximum(difference, (expected - found).abs().max())  # NaN if either is
        agreed += int((expected.argmax(1) == found.argmax(1)).sum())
    return difference.item(), agreed


class OnnxFormat(ExportFormat):
    """One file that runs without Python and without torch."""

    name, file = "onnx", "model.onnx"
    opset = 23  # the newest that torch's exporter writes; onnxruntime reads it from 1.23 on
    max_bytes = 2_000_000_000  # of a file in protobuf
    input, output = "images", "probabilities"

    def to_bytes(self, predictor: Predictor, metadata: dict[str, str]) -> bytes:
        """Weights inside; ``metadata`` but for the config, which nothing outside this project reads."""
        import onnx

        size = sum(tensor.nbytes for tensor in predictor.state_dict().values())
        if size > self.max_bytes:
            raise UserError(
                f"format=onnx: {size / 1e9:.1f} GB of weights, and such a file holds at most"
                f" {self.max_bytes / 1e9:.0f} GB; use format=torch_export or safetensors"
            )
        program = torch.onnx.export(
            predictor,
            (_example(predictor),),
            dynamo=True,
            opset_version=self.opset,
            input_names=[self.input],
            output_names=[self.output],
            dynamic_shapes={"images": {0: "batch"}},
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
        model.doc_string = ""
        graph = model.graph
        inside = [part for each in (graph, *model.functions) for part in (each, *each.node, *each.value_info)]
        for part in (*inside, *graph.input, *graph.output, *graph.initializer):
            del part.metadata_props[:]  # the exporter's notes, which name files of this machine
        onnx.helper.set_model_props(model, _without_config(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    def open(self, file: Path) -> Runtime:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run([self.output], {self.input: images.numpy()})[0])

    def runtime(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}, opset {self.opset}"


class TorchExportFormat(ExportFormat):
    """The graph of the network, for torch, without this project's code."""

    name, file = "torch_export", "model.pt2"
    extra_file = "smallvision.json"  # of the metadata, in the archive

    def to_bytes(self, predictor: Predictor, metadata: dict[str, str]) -> bytes:
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(predictor, (_example(predictor),), dynamic_shapes={"images": {0: batch}})
        for module in program.graph_module.modules():
            if isinstance(module, torch.fx.GraphModule):
                for node in module.graph.nodes:
                    node.meta.pop("stack_trace", None)  # it names files of this machine
        stream = io.BytesIO()
        torch.export.save(program, stream, extra_files={self.extra_file: json.dumps(_without_config(metadata))})
        return stream.getvalue()

    def open(self, file: Path) -> Runtime:
        content = io.BytesIO(file.read_bytes())  # torch would warn of a scratch file's suffix
        return torch.export.load(content).module()

    def runtime(self) -> str:
        return f"torch {torch.__version__}"


class SafetensorsFormat(ExportFormat):
    """The weights, and in the metadata what rebuilds the predictor around them; nothing in it can run."""

    name, file = "safetensors", "model.safetensors"

    def to_bytes(self, predictor: Predictor, metadata: dict[str, str]) -> bytes:
        return safetensors_file.to_bytes(predictor, metadata)

    def open(self, file: Path) -> Runtime:
        return safetensors_file.load(file)

    def runtime(self) -> str:
        import safetensors

        return f"safetensors {safetensors.__version__}, torch {torch.__version__}"


FORMATS: dict[str, ExportFormat] = {
    each.name: each for each in (OnnxFormat(), TorchExportFormat(), SafetensorsFormat())
}


@contextmanager
def silence_output() -> Iterator[None]:
    """Within the block nothing is printed, logged or warned about: torch's exporters do much of each."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _example(predictor: Predictor) -> Tensor:
    """Images to trace with. Two: from one image an exporter would infer that there is always one."""
    return torch.zeros(2, *predictor.spec.shape, dtype=torch.uint8)


def _without_config(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key != "config"}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
