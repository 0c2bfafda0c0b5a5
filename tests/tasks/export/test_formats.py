"""Every network computes the same in every format, for any number of images."""

import json

import onnx
import onnxruntime
import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.models import MLP, AirbenchNet, CifarNet, LeNet5, Linear, MnistNet, ResNet18
from smallvision.tasks.export import formats, onnx_model
from smallvision.tasks.export.formats import FORMATS, export
from smallvision.tasks.export.module import Standalone
from smallvision.tasks.export.sample import Sample
from smallvision.training.layers import TestTimeAugmentation, Whiten

CLASSES = [f"class {number}" for number in range(10)]
WORDS = {"smallvision": "1", "classes": json.dumps(CLASSES)}
# Kind: the network for its shape, the shape, pixels of a whitened patch, views.
KINDS = {
    "mnist": (MnistNet, (1, 28, 28), 0, TestTimeAugmentation()),
    "fashion_mnist": (
        lambda **of: MLP(hidden=(32,), dropout=0.5, **of),
        (1, 28, 28),
        0,
        TestTimeAugmentation(),
    ),
    "lenet5": (LeNet5, (1, 28, 28), 0, TestTimeAugmentation(shift=2)),
    "linear": (Linear, (3, 8, 9), 0, TestTimeAugmentation()),
    "cifar10": (
        lambda **of: CifarNet(widths=(8, 16, 16), **of),
        (3, 32, 32),
        0,
        TestTimeAugmentation(flip=True),
    ),
    "airbench": (
        lambda **of: AirbenchNet(widths=(8, 8), **of),
        (3, 13, 12),
        2,
        TestTimeAugmentation(flip=True, shift=1),
    ),
    "resnet18": (ResNet18, (3, 8, 8), 0, TestTimeAugmentation()),
}


def module(kind: str) -> Standalone:
    """As if it had been trained: running figures of batch norm that are not those of a beginning."""
    make, shape, side, views = KINDS[kind]
    torch.manual_seed(0)
    whiten = Whiten(shape[0], side) if side else None
    noise = torch.randn(64, *shape)
    if whiten:
        whiten.fit(noise)
    channels, height, width = whiten.shape(shape) if whiten else shape
    network = make(channels=channels, size=(height, width), classes=len(CLASSES))
    network.train()(whiten(noise) if whiten else noise)
    mean, std = [0.4] * shape[0], [0.3] * shape[0]
    return Standalone(network, mean, std, shape=shape, classes=CLASSES, whiten=whiten, views=views)


def noise(shape, count=300) -> Sample:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Sample(images, f"{count} of noise")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_an_exported_network_gives_the_same_probabilities_for_one_image_and_for_many(name, kind, tmp_path):
    network = module(kind)
    made = export(name, network, WORDS, "of", noise(network.shape), tmp_path)
    assert made.difference <= 1e-6
    assert (made.agreed, made.images, made.batches) == (300, 300, "1, 7, 248, 44")
    assert [file.name for file in tmp_path.iterdir()] == [FORMATS[name].file]
    assert made.bytes == (tmp_path / made.file).stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_gives_probabilities_of_raw_images(kind):
    network = module(kind)
    probabilities = network(noise(network.shape, 5).images)
    assert (probabilities.shape, probabilities.dtype) == ((5, 10), torch.float32)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


def test_an_onnx_file_says_what_it_takes_and_gives_and_nothing_of_the_machine(tmp_path):
    network = module("mnist")
    export("onnx", network, {**WORDS, "config": "kept out"}, "of", noise(network.shape), tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    assert [entry.version for entry in model.opset_import] == [onnx_model.OPSET]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (takes.name, takes.type, takes.shape) == ("images", "tensor(uint8)", ["batch", 1, 28, 28])
    assert (gives.name, gives.type, gives.shape) == ("probabilities", "tensor(float)", ["batch", 10])
    assert session.get_modelmeta().custom_metadata_map == WORDS
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_a_program_of_torch_says_the_same_and_nothing_of_the_machine(tmp_path):
    network = module("mnist")
    export("torch_export", network, WORDS, "of", noise(network.shape), tmp_path)
    extra = {"smallvision.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["smallvision.json"]) == WORDS
    assert b"inputs.py" not in (tmp_path / "model.pt2").read_bytes()


def test_a_file_that_computes_something_else_is_refused_and_what_was_there_stays(tmp_path, monkeypatch):
    network = module("linear")
    form = FORMATS["torch_export"]
    (tmp_path / form.file).write_text("an earlier one")

    def opened(file):
        right = form.opened(file)
        return lambda images: right(images) + 2e-5

    monkeypatch.setitem(formats.FORMATS, "torch_export", formats.Format(form.file, form.made, opened, str))
    with pytest.raises(UserError, match=r"^model.pt2: not kept: on 300 images its probabilities differ"):
        export("torch_export", network, WORDS, "of", noise(network.shape), tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]


def test_a_runtime_that_gives_another_shape_is_refused(tmp_path, monkeypatch):
    network = module("linear")
    form = formats.Format("model.pt2", FORMATS["torch_export"].made, lambda file: lambda i: i, str)
    monkeypatch.setitem(formats.FORMATS, "torch_export", form)
    with pytest.raises(UserError, match="0 predicted classes agree"):
        export("torch_export", network, WORDS, "of", noise(network.shape), tmp_path)


def test_a_runtime_that_cannot_run_the_file_is_told_in_one_line(tmp_path, monkeypatch):
    def opened(file):
        raise RuntimeError("no such operator\nand more")

    form = formats.Format("model.pt2", FORMATS["torch_export"].made, opened, lambda: "torch 0")
    monkeypatch.setitem(formats.FORMATS, "torch_export", form)
    with pytest.raises(UserError, match=r"torch 0 cannot run it \(RuntimeError: no such operator\)"):
        export("torch_export", module("linear"), WORDS, "of", noise((3, 8, 9)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    network = module("linear")
    network.network[1].bias.fill_(float("nan"))
    with pytest.raises(UserError, match="the network gives no numbers"):
        export("torch_export", network, WORDS, "of", noise(network.shape), tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_weights_than_an_onnx_file_holds_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"format=onnx: .* use format=torch_export or safetensors"):
        export("onnx", module("linear"), WORDS, "of", noise((3, 8, 9)), tmp_path)


def test_a_network_that_cannot_be_traced_is_refused_in_one_line(tmp_path):
    class Asks(torch.nn.Module):
        def forward(self, images):
            if float(images.sum()) > 0:
                return images.flatten(1)[:, :10]
            return images.flatten(1)[:, 10:20]

    network = Standalone(Asks(), [0.5], [0.5], shape=(1, 8, 8), classes=CLASSES)
    with pytest.raises(UserError, match="format=torch_export: this network cannot be exported so"):
        export("torch_export", network, WORDS, "of", noise((1, 8, 8)), tmp_path)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_images_are_enough(count, tmp_path):
    network = module("linear")
    made = export("torch_export", network, WORDS, "of", noise(network.shape, count), tmp_path)
    assert (made.images, made.agreed) == (count, count)


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    network = module("linear")
    with pytest.raises(UserError, match=r"model.pt2: cannot be written: No such file.*hydra.run.dir=DIRECTORY"):
        export("torch_export", network, WORDS, "of", noise(network.shape), tmp_path / "nowhere")
