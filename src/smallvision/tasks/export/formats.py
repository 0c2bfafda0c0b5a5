"""The file formats: how a predictor is written in each, and how such a file is run."""

import hashlib
import io
import json
import logging
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.core.run_dir import atomic_write
from smallvision.tasks.export import safetensors_file
from smallvision.tasks.export.manifest import Export
from smallvision.tasks.export.verify import Agreement, Runtime, TestImages, compare, verify
from smallvision.training.predictor import Predictor


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

    def export(
        self, predictor: Predictor, metadata: dict[str, str], of: str, images: TestImages, folder: Path
    ) -> Export:
        """Write the file to ``folder``, once it has been opened in its runtime and agrees with ``predictor``.

        ``of``: the identity of the network. Raises UserError where the network cannot be written in this format,
        where the file computes something else, or where it cannot be written.
        """
        started = time.perf_counter()
        path = folder / self.file
        content = self._to_bytes(predictor, metadata)
        try:
            with atomic_write(path) as scratch:
                scratch.write_bytes(content)
                agreement = self._compare(scratch, predictor, images)
                verify(self.file, self.runtime(), agreement)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written: {error.strerror or error}; hydra.run.dir=DIRECTORY chooses another place"
            ) from None
        return Export(
            format=self.name,
            file=self.file,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            of=of,
            difference=agreement.difference,
            agreed=agreement.agreed,
            images=agreement.images,
            batches=", ".join(f"{size:,}" for size in dict.fromkeys(agreement.batches)),
            compared_on=images.description,
            caution=images.caution,
            runtime=self.runtime(),
            seconds=time.perf_counter() - started,
        )

    def _to_bytes(self, predictor: Predictor, metadata: dict[str, str]) -> bytes:
        try:
            with silence_output():
                return self.to_bytes(predictor, metadata)
        except UserError:
            raise
        except Exception as error:  # torch's exporters raise a dozen types for a network that they cannot trace
            other = "onnx" if self.name == "safetensors" else "safetensors"
            raise UserError(
                f"format={self.name}: this network cannot be exported in this format ({_one_line(error)});"
                f" try format={other}"
            ) from error

    def _compare(self, file: Path, predictor: Predictor, images: TestImages) -> Agreement:
        try:
            with silence_output():
                return compare(predictor, self.open(file), images.images)
        except (UserError, OSError):
            raise
        except Exception as error:  # each runtime has types of its own
            raise UserError(f"{self.file}: not kept: {self.runtime()} cannot run it ({_one_line(error)})") from error


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
        parts = [model.graph, *model.functions]
        for part in [model.graph, *model.functions]:
            parts += [*part.node, *part.value_info]
        for part in [*parts, *model.graph.input, *model.graph.output, *model.graph.initializer]:
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

        def run(images: Tensor) -> Tensor:
            (probabilities,) = session.run([self.output], {self.input: images.numpy()})
            return torch.from_numpy(probabilities)

        return run

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
