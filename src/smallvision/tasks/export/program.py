"""`format=torch_export`: the graph of the network, for torch, without this project's code."""

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from smallvision.tasks.export.module import Standalone, example

EXTRA = "smallvision.json"


def made(module: Standalone, words: dict[str, str]) -> bytes:
    """The file's bytes, for any number of images from one on; ``words`` as its extra file."""
    program = torch.export.export(
        module, (example(module),), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}
    )
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)  # it names the files of this machine
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={EXTRA: json.dumps(words)})
    return stream.getvalue()


class Opened:
    """The file in torch."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:  # under its scratch name, which torch would complain of
            self.module = torch.export.load(io.BytesIO(stream.read())).module()

    def __call__(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.module(images)
        return probabilities


def runtime() -> str:
    return f"torch {torch.__version__}"
