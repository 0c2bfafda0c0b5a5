"""The networks: batches become logits."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smallvision import models
from smallvision.training.model_spec import ModelSpec

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 8, 8), (4, 17, 23), (2, 1, 1)]
# The smallest height and width that each network can take.
SMALLEST = {"MLP": 1, "Linear": 1, "MnistNet": 10, "LeNet5": 12, "CifarNet": 8, "ResNet18": 8, "AirbenchNet": 8}
OTHERS = {"TimmNetwork", "TorchvisionNetwork"}  # see tests/tasks/test_pretrained.py
FITTING = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name in SMALLEST
    for shape in SHAPES
    if min(shape[1:]) >= SMALLEST[name]
]


def make(name: str, shape: tuple[int, int, int], classes: int = 10, **options: Any) -> nn.Module:
    channels, height, width = shape
    network: nn.Module = getattr(models, name)(channels, (height, width), classes, **options)
    return network


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_network_is_tested_here() -> None:
    assert {*SMALLEST, *OTHERS} == set(models.__all__)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_images_become_logits_whatever_else_is_in_the_batch(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network, images = make(name, shape).eval(), torch.rand(3, *shape)
    with torch.no_grad():
        logits = network(images)
        one_by_one = torch.cat([network(images[[k]]) for k in range(3)])
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    assert torch.allclose(logits, one_by_one, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_gradients_reach_every_parameter(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = make(name, shape, classes=5)
    logits = network(torch.randn(8, *shape))
    assert logits.shape == (8, 5)
    F.cross_entropy(logits, torch.arange(8) % 5).backward()
    unreached = [
        key
        for key, value in network.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    assert unreached == []


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
def test_networks_have_the_numbers_of_parameters_that_the_configs_state(
    name: str, shape: tuple[int, int, int], parameters: int
) -> None:
    with torch.device("meta"):
        assert count(make(name, shape)) == parameters


@pytest.mark.parametrize("name", [name for name, smallest in SMALLEST.items() if smallest > 1])
@pytest.mark.parametrize("wide", [False, True])
def test_images_that_are_too_small_are_refused_and_the_smallest_possible_are_not(name: str, wide: bool) -> None:
    smallest = SMALLEST[name]
    other = 40 if wide else smallest
    network = make(name, (1, smallest, other)).eval()
    assert network(torch.rand(2, 1, smallest, other)).shape == (2, 10)
    for size in {1, smallest - 1}:
        with pytest.raises(ValueError, match=f"images of {size} x {40 if wide else size} "):
            make(name, (1, size, 40 if wide else size))


def test_options_change_the_widths_and_depths() -> None:
    with torch.device("meta"):
        assert count(make("MLP", (1, 2, 2), classes=3, hidden=[])) == 4 * 3 + 3
        assert count(make("MLP", (1, 2, 2), classes=3, hidden=[5])) == 4 * 5 + 5 + 5 * 3 + 3
        assert make("MnistNet", (1, 28, 28), widths=[3, 7]).classifier.in_features == 7 * 25
        assert len(make("AirbenchNet", (1, 4, 4), widths=[8, 9]).stages) == 14
        assert make("CifarNet", (1, 4, 4), widths=[8, 9], depths=[0, 0]).classifier.in_features == 9


def test_a_convolution_of_airbench_is_the_identity_on_its_inputs_at_first() -> None:
    first = make("AirbenchNet", (3, 8, 8), widths=[5, 5, 2]).stages[0]
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(first(images)[:, :3], images)
    assert not torch.equal(first(images)[:, 3:], torch.zeros(2, 2, 8, 8))
    narrower = make("AirbenchNet", (5, 8, 8), widths=[3]).stages[0]
    assert torch.equal(narrower(torch.ones(1, 5, 8, 8)), torch.ones(1, 3, 8, 8))


def test_airbench_learns_the_shifts_of_its_norms_and_no_scales_and_no_other_biases() -> None:
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


def test_airbench_starts_with_nearly_uniform_probabilities() -> None:
    torch.manual_seed(0)
    network = make("AirbenchNet", (3, 32, 32), classes=10)
    probabilities = network(torch.randn(64, 3, 32, 32)).softmax(1)
    assert probabilities.max() < 0.4
    assert network.classifier.weight.std().item() == pytest.approx(1 / 256, rel=0.1)


def test_widths_without_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 widths but 2 depths"):
        make("CifarNet", (1, 8, 8), widths=[1, 2, 3], depths=[0, 1])


def test_dropout_is_active_in_training_only() -> None:
    network, images = make("MLP", (1, 8, 8), dropout=0.5), torch.rand(2, 1, 8, 8)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("name", [name for name in SMALLEST if name != "ResNet18"])
def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_left_alone(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        section = {"name": name, "_target_": f"smallvision.models.{name}"}
        network = ModelSpec(section, (1, 12, 12), [*"abc"], [0.0], [1.0], seed=seed).make_network()
        return torch.cat([value.detach().flatten() for value in network.parameters()])

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(10)
    assert torch.equal(weights(seed=7), first)
    assert not torch.equal(weights(seed=8), first)
