"""`format=onnx`: one file that runs without Python and without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.tasks.export.module import Standalone, example

if TYPE_CHECKING:
    from onnx import ModelProto

# The newest that torch's exporter writes; onnxruntime reads it from 1.23 on.
OPSET = 23
MOST_BYTES = 2_000_000_000  # of a file of that kind (protobuf)
INPUT, OUTPUT = "images", "probabilities"


def made(module: Standalone, words: dict[str, str]) -> bytes:
    """The file's bytes: weights inside, any number of images, ``words`` as its metadata.

    Raises UserError where the weights are more than such a file holds.
    """
    import onnx

    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > MOST_BYTES:
        raise UserError(
            f"format=onnx: {size / 1e9:.1f} GB of weights, and such a file holds at most"
            f" {MOST_BYTES / 1e9:.0f} GB; use format=torch_export or safetensors"
        )
    program = torch.onnx.export(
        module,
        (example(module),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _strip(model)
    model.doc_string = ""
    onnx.helper.set_model_props(model, words)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _strip(model: "ModelProto") -> None:
    """Without the exporter's notes on every part, which name the files of this machine."""
    graph = model.graph
    parts: list[Any] = [
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *graph.value_info,
    ]
    for function in model.functions:
        parts += [function, *function.node, *function.value_info]
    for part in parts:
        del part.metadata_props[:]


class Opened:
    """The file in onnxruntime."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        (probabilities,) = self.session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(probabilities)


def runtime() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, opset {OPSET}"
