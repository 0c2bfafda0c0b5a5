"""Every kind of network computes the same in every format, for any number of images."""

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from helpers.predictors import predictor_of

from smallvision.core.errors import UserError
from smallvision.tasks.export.formats import FORMATS, ExportFormat, OnnxFormat, Runtime, TestImages, TorchExportFormat
from smallvision.tasks.export.safetensors_file import make_metadata
from smallvision.training.predictor import Predictor

SMALL = ((1, 8, 8), "model=linear")
NETWORKS = {  # test_export.py has one with whitening and six views
    "convolutions": ((1, 28, 28), "model=lenet5"),
    "batch norm": ((3, 30, 32), "model=cifar10", "model.widths=[8,16,16]"),
}


def noise(predictor: Predictor, count: int = 300) -> TestImages:
    images = torch.randint(0, 256, (count, *predictor.spec.shape), dtype=torch.uint8)
    return TestImages(images, f"{count} images of noise")


def without_config(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key != "config"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_network_gives_the_same_probabilities_for_one_image_and_for_many(name, network, tmp_path):
    predictor = predictor_of(*NETWORKS[network])
    export = FORMATS[name].export(predictor, noise(predictor), tmp_path)
    assert export.difference <= 1e-6
    assert (export.agreed, export.images, export.batches) == (300, 300, "1, 7, 248, 44")
    assert [file.name for file in tmp_path.iterdir()] == [FORMATS[name].file]
    assert export.bytes == (tmp_path / export.file).stat().st_size


def test_an_onnx_file_names_its_input_and_output_and_nothing_of_the_machine(tmp_path):
    predictor = predictor_of((1, 28, 28), "model=linear")
    FORMATS["onnx"].export(predictor, noise(predictor, 2), tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    assert [entry.version for entry in model.opset_import] == [OnnxFormat.opset]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (takes.name, takes.type, takes.shape) == ("images", "tensor(uint8)", ["batch", 1, 28, 28])
    assert (gives.name, gives.type, gives.shape) == ("probabilities", "tensor(float)", ["batch", 10])
    assert session.get_modelmeta().custom_metadata_map == without_config(make_metadata(predictor))
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_a_program_of_torch_has_the_same_metadata_and_nothing_of_the_machine(tmp_path):
    predictor = predictor_of((1, 28, 28), "model=linear")
    FORMATS["torch_export"].export(predictor, noise(predictor, 2), tmp_path)
    extra = {"smallvision.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["smallvision.json"]) == without_config(make_metadata(predictor))
    assert b"predictor.py" not in (tmp_path / "model.pt2").read_bytes()


class Off(TorchExportFormat):
    """Its runtime gives probabilities that are off by 2e-5."""

    def open(self, file: Path) -> Runtime:
        run = super().open(file)
        return lambda images: run(images) + 2e-5


class OtherShape(TorchExportFormat):
    """Its runtime gives the images back."""

    def open(self, file: Path) -> Runtime:
        return lambda images: images


class Broken(TorchExportFormat):
    """Its runtime does not open the file."""

    def open(self, file: Path) -> Runtime:
        raise RuntimeError("no such operator\nand more")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (Off(), r"^model.pt2: not kept: on 9 images its probabilities in torch .* differ .* \(9 predicted classes"),
        (OtherShape(), "0 predicted classes agree"),
        (Broken(), r"torch \S+ cannot run it \(RuntimeError: no such operator\)$"),
    ],
)
def test_a_file_that_does_not_agree_is_refused_and_what_was_there_stays(wrong: ExportFormat, error: str, tmp_path):
    predictor = predictor_of(*SMALL)
    (tmp_path / wrong.file).write_text("an earlier one")
    with pytest.raises(UserError, match=error):
        wrong.export(predictor, noise(predictor, 9), tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]


def test_a_network_whose_weights_are_nan_is_refused(tmp_path):
    predictor = predictor_of(*SMALL)
    predictor.network[1].bias.fill_(float("nan"))
    with pytest.raises(UserError, match="the network's probabilities are NaN"):
        FORMATS["torch_export"].export(predictor, noise(predictor, 2), tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_weights_than_an_onnx_file_holds_are_refused_before_they_are_written(tmp_path, monkeypatch):
    predictor = predictor_of(*SMALL)
    monkeypatch.setattr(OnnxFormat, "max_bytes", 1000)
    with pytest.raises(UserError, match=r"format=onnx: .* use format=torch_export or safetensors"):
        FORMATS["onnx"].export(predictor, noise(predictor, 2), tmp_path)


class Branches(torch.nn.Module):
    """What it computes depends on the images in a way that cannot be traced."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, :10] if float(images.sum()) > 0 else images.flatten(1)[:, 10:20]


def test_a_network_that_cannot_be_traced_is_refused_in_one_line(tmp_path):
    predictor = predictor_of(*SMALL)
    predictor.network = Branches()
    with pytest.raises(UserError, match="format=torch_export: this network cannot be exported in this format"):
        FORMATS["torch_export"].export(predictor, noise(predictor, 2), tmp_path)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_images_are_enough(count, tmp_path):
    predictor = predictor_of(*SMALL)
    export = FORMATS["safetensors"].export(predictor, noise(predictor, count), tmp_path)
    assert (export.images, export.agreed) == (count, count)


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    predictor = predictor_of(*SMALL)
    with pytest.raises(UserError, match=r"model.pt2: cannot be written: No such file.*hydra.run.dir=DIRECTORY"):
        FORMATS["torch_export"].export(predictor, noise(predictor, 2), tmp_path / "nowhere")
