"""The statements of the tutorials about PyTorch hold, with the numbers that they print.

Training relies on them: gradients accumulate until they are cleared, values that leave torch lose their gradient,
a seed determines every initial weight.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def scalar(value: float) -> torch.Tensor:
    """A leaf with a gradient."""
    return torch.tensor(value, requires_grad=True)


# Gradients accumulate ------------------------------------------------------------------------------------------


def test_five_backward_passes_without_clearing_sum_five_gradients() -> None:
    x, w, b = scalar(3.0), scalar(5.0), scalar(2.0)
    for _ in range(5):
        y = w * x + b
        y.backward()
    assert y.item() == 17
    assert x.grad is not None
    assert w.grad is not None
    assert b.grad is not None
    assert (x.grad.item(), w.grad.item(), b.grad.item()) == (25, 15, 5)


def test_a_second_backward_doubles_the_gradient_until_it_is_set_to_none() -> None:
    x = scalar(1.0)
    gradients = []
    for _ in range(2):
        y = x**3 + 2 * x + 1
        y.backward()
        assert y.item() == 4
        assert x.grad is not None
        gradients.append(x.grad.item())
    assert gradients == [5, 10]
    x.grad = None
    (x**3 + 2 * x + 1).backward()
    assert x.grad is not None
    assert x.grad.item() == 5


def test_zero_grad_leaves_none_and_not_zeros() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(3)).sum().backward()
    assert layer.weight.grad is not None
    optimizer.zero_grad()
    assert [parameter.grad for parameter in layer.parameters()] == [None, None]
    layer(torch.ones(3)).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert layer.weight.grad is not None
    assert layer.weight.grad.eq(0).all()


# Derivatives -----------------------------------------------------------------------------------------------


def test_first_and_second_derivative_of_a_square() -> None:
    x = scalar(5.0)
    (first,) = torch.autograd.grad(x**2, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert (first.item(), second.item()) == (10, 2)


def test_partial_derivatives_of_a_function_of_two_numbers() -> None:
    x, y = scalar(1.0), scalar(1.0)
    (x**2 * y + 3 * x * y**5 + x**3).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.item() == 8  # 2xy + 3y^5 + 3x^2
    assert y.grad.item() == 16  # x^2 + 15xy^4


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_math_sqrt_loses_the_gradient_and_torch_sqrt_keeps_it() -> None:
    x = scalar(4.0)
    assert isinstance(math.sqrt(x), float)
    y = torch.sqrt(x)
    y.backward()
    assert x.grad is not None
    assert (y.item(), x.grad.item()) == (2, 0.25)


def test_twenty_steps_of_sgd_down_a_parabola_are_those_of_the_formula() -> None:
    x = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.1)
    visited, by_hand = [10.0], [10.0]
    for _ in range(20):
        optimizer.zero_grad()
        (3 * x**2 + 6 * x - 9).backward()
        optimizer.step()
        visited.append(x.item())
        by_hand.append(by_hand[-1] - 0.1 * (6 * by_hand[-1] + 6))
    assert visited == pytest.approx(by_hand, rel=1e-14)
    assert visited == pytest.approx([-1 + 11 * 0.4**step for step in range(21)], rel=1e-14)
    assert visited[1:4] == pytest.approx([3.4, 0.76, -0.296])
    assert visited[20] == pytest.approx(-1, abs=2e-7)


# A network by hand -----------------------------------------------------------------------------------------


def test_seed_1_gives_the_printed_weights_hidden_values_output_and_loss() -> None:
    torch.manual_seed(1)
    first, second = nn.Linear(3, 2), nn.Linear(2, 1)
    x, t = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0])
    u = first(x)
    y = second(torch.relu(u))
    printed = {
        "weight": (first.weight, [[0.2975, -0.2548, -0.1119], [0.2710, -0.5435, 0.3462]]),
        "bias": (first.bias, [-0.1188, 0.2937]),
        "u": (u, [-0.6667, 0.5164]),
        "ReLU": (torch.relu(u), [0, 0.5164]),
        "y": (y, [0.1514]),
        "loss": (F.mse_loss(y, t), 0.7201),
    }
    for name, (found, expected) in printed.items():
        torch.testing.assert_close(
            found.detach(), torch.tensor(expected), atol=5e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_integers_are_refused_by_a_layer_of_floats() -> None:
    with pytest.raises(RuntimeError, match="same dtype"):
        nn.Linear(3, 2)(torch.tensor([1, 2, 3]))


# Shapes ----------------------------------------------------------------------------------------------------


def test_permute_brings_images_from_channels_last_to_channels_first() -> None:
    images = torch.arange(2 * 5 * 4 * 3).reshape(2, 5, 4, 3)  # N x W x H x C
    moved = images.permute(0, 3, 1, 2)  # N x C x W x H: still transposed
    assert moved.shape == (2, 3, 5, 4)
    upright = images.permute(0, 3, 2, 1)  # N x C x H x W, as layers take them
    assert upright.shape == (2, 3, 4, 5)
    assert upright[1, 2, 3, 4] == images[1, 4, 3, 2]
    assert upright.data_ptr() == images.data_ptr()  # a view, no copy


def test_products_are_elementwise_and_broadcast_where_a_size_is_one() -> None:
    assert (torch.tensor([1, 2]) * torch.tensor([3, 4])).tolist() == [3, 8]
    table = torch.tensor([[1], [2], [3]]) * torch.tensor([1, 2, 3])
    assert table.tolist() == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]
    with pytest.raises(RuntimeError, match="must match"):
        torch.tensor([1, 2]) * torch.tensor([3, 4, 5])


def test_tensors_on_two_devices_cannot_be_added() -> None:
    other = "cuda" if torch.cuda.is_available() else "meta"
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + torch.ones(2, device=other)
