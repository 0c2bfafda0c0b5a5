"""How each exported file is used, in a few lines of Python."""

ONNX = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((1, {shape}), np.uint8)  # your images, 0 to 255
(probabilities,) = session.run(["probabilities"], {{"images": images}})
print(probabilities.argmax(1))  # numbers of classes"""

TORCH_EXPORT = """\
import torch
network = torch.export.load("model.pt2").module()
images = torch.zeros((1, {shape}), dtype=torch.uint8)  # your images, 0 to 255
probabilities = network(images)
print(probabilities.argmax(1))  # numbers of classes"""

SAFETENSORS = """\
import torch
from smallvision.tasks.export import weights
network = weights.load("model.safetensors")
images = torch.zeros((1, {shape}), dtype=torch.uint8)  # your images, 0 to 255
print([network.classes[number] for number in network(images).argmax(1)])"""

LINES = {"onnx": ONNX, "torch_export": TORCH_EXPORT, "safetensors": SAFETENSORS}
NEEDS = {
    "onnx": "Needs onnxruntime and numpy, no torch.",
    "torch_export": "Needs torch, not this project. Like any file that torch unpickles: open only your own.",
    "safetensors": "Needs this project, torch and safetensors. Nothing in such a file can run.",
}


def lines(name: str, shape: tuple[int, int, int]) -> str:
    return LINES[name].format(shape=", ".join(map(str, shape)))
