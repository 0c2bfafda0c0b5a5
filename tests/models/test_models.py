"""The networks: batches become logits."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smallvision import models
from smallvision.training.factory import make_network

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 8, 8), (4, 17, 23), (2, 1, 1)]
# The smallest height and width that each network can take.
LEAST = {"MLP": 1, "Linear": 1, "MnistNet": 10, "LeNet5": 12, "CifarNet": 8, "ResNet18": 8, "AirbenchNet": 8}
FITTING = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name in models.__all__
    for shape in SHAPES
    if min(shape[1:]) >= LEAST[name]
]


def make(name: str, shape: tuple[int, int, int], classes: int = 10, **choices: Any) -> nn.Module:
    channels, height, width = shape
    network: nn.Module = getattr(models, name)(channels, (height, width), classes, **choices)
    return network


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_network_is_tried_here() -> None:
    assert set(LEAST) == set(models.__all__)


@pytest.mark.parametrize(("name", "shape"), FITTING)
@pytest.mark.parametrize("classes", [2, 10])
def test_a_batch_becomes_logits_for_each_class(name: str, shape: tuple[int, int, int], classes: int) -> None:
    network = make(name, shape, classes).eval()
    with torch.no_grad():
        for images in (1, 3):
            logits = network(torch.rand(images, *shape))
            assert logits.shape == (images, classes)
            assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_gradients_reach_every_parameter(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = make(name, shape, classes=5)
    F.cross_entropy(network(torch.randn(8, *shape)), torch.arange(8) % 5).backward()
    unreached = [
        key
        for key, value in network.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    assert unreached == []


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_images_are_classified_one_by_one_whatever_else_is_in_the_batch(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network, images = make(name, shape).eval(), torch.rand(4, *shape)
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(images[[k]]) for k in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("MnistNet", (1, 28, 28), 6_930),
        ("MLP", (1, 28, 28), 669_706),
        ("LeNet5", (1, 28, 28), 61_706),
        ("Linear", (1, 28, 28), 7_850),
        ("CifarNet", (3, 32, 32), 1_664_426),
        ("ResNet18", (3, 32, 32), 11_173_962),
        ("AirbenchNet", (24, 31, 31), 1_972_480),
    ],
)
def test_networks_have_the_parameters_that_the_configs_speak_of(
    name: str, shape: tuple[int, int, int], parameters: int
) -> None:
    with torch.device("meta"):
        assert count(make(name, shape)) == parameters


@pytest.mark.parametrize("name", [name for name, least in LEAST.items() if least > 1])
@pytest.mark.parametrize("wide", [False, True])
def test_images_that_are_too_small_are_refused_and_the_smallest_that_do_are_taken(name: str, wide: bool) -> None:
    least = LEAST[name]
    other = 40 if wide else least
    network = make(name, (1, least, other)).eval()
    assert network(torch.rand(2, 1, least, other)).shape == (2, 10)
    for size in {1, least - 1}:
        with pytest.raises(ValueError, match=f"images of {size} x {40 if wide else size} "):
            make(name, (1, size, 40 if wide else size))


def test_choices_change_the_widths_and_depths() -> None:
    with torch.device("meta"):
        assert count(make("MLP", (1, 2, 2), classes=3, hidden=[])) == 4 * 3 + 3
        assert count(make("MLP", (1, 2, 2), classes=3, hidden=[5])) == 4 * 5 + 5 + 5 * 3 + 3
        assert make("MnistNet", (1, 28, 28), widths=[3, 7]).classifier.in_features == 7 * 25
        assert len(make("AirbenchNet", (1, 4, 4), widths=[8, 9]).stages) == 14
        assert make("CifarNet", (1, 4, 4), widths=[8, 9], depths=[0, 0]).classifier.in_features == 9


def test_a_convolution_of_airbench_begins_by_handing_on_its_inputs() -> None:
    first = make("AirbenchNet", (3, 8, 8), widths=[5, 5, 2]).stages[0]
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(first(images)[:, :3], images)
    assert not torch.equal(first(images)[:, 3:], torch.zeros(2, 2, 8, 8))
    narrower = make("AirbenchNet", (5, 8, 8), widths=[3]).stages[0]
    assert torch.equal(narrower(torch.ones(1, 5, 8, 8)), torch.ones(1, 3, 8, 8))


def test_airbench_learns_shifts_of_its_norms_and_no_scales_and_few_biases() -> None:
    network = make("AirbenchNet", (3, 8, 8), widths=[4, 6])
    learnt = {name for name, value in network.named_parameters() if value.requires_grad}
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(norms) == len(convolutions) == 4
    assert learnt == {
        "classifier.weight",
        *(f"{name}.bias" for name in norms),
        *(f"{name}.weight" for name in convolutions),
    }
    for name, value in network.named_parameters():
        assert value.requires_grad or value.eq(1).all(), name


def test_airbench_is_unsure_of_everything_at_first() -> None:
    torch.manual_seed(0)
    network = make("AirbenchNet", (3, 32, 32), classes=10)
    shares = network(torch.randn(64, 3, 32, 32)).softmax(1)
    assert shares.max() < 0.4
    assert network.classifier.weight.std().item() == pytest.approx(1 / 256, rel=0.1)


def test_widths_without_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 widths but 2 depths"):
        make("CifarNet", (1, 8, 8), widths=[1, 2, 3], depths=[0, 1])


def test_dropout_acts_in_training_only() -> None:
    network, images = make("MLP", (1, 8, 8), dropout=0.5), torch.rand(2, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("name", [name for name in models.__all__ if name != "ResNet18"])
def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_left_alone(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        config = {"seed": seed, "model": {"name": name, "_target_": f"smallvision.models.{name}"}}
        network = make_network(config, (1, 12, 12), classes=3)
        return torch.cat([value.detach().flatten() for value in network.parameters()])

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert torch.equal(weights(seed=7), first)
    assert not torch.equal(weights(seed=8), first)
