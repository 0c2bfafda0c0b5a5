"""Each function has the minima and the gradients that calculus gives it."""

import math
import random
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smallvision.config.schema import Descent
from smallvision.tasks.descent.trajectory import FUNCTIONS, Function

each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
NUMBERS = st.floats(-6, 6)


def gradient(function: Function, point: tuple[float, ...]) -> list[float]:
    variable = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(function.value(variable), variable)
    return slopes.tolist()


def test_the_config_accepts_every_function() -> None:
    assert set(get_args(Descent.key_types()["function"])) == {*FUNCTIONS, "all"}


@each_function
def test_minima_have_the_lowest_value_no_slope_and_positive_curvature(function: Function) -> None:
    for minimum in function.minima:
        assert function.at(minimum) == pytest.approx(function.lowest, abs=1e-20)
        assert gradient(function, minimum) == pytest.approx([0] * len(minimum), abs=1e-12)
        curvatures = torch.autograd.functional.hessian(function.value, torch.tensor(minimum, dtype=torch.float64))
        assert torch.linalg.eigvalsh(curvatures).min() > 0


@each_function
def test_start_and_minima_are_in_view(function: Function) -> None:
    for point in (function.start, *function.minima):
        assert all(low < one < high for one, (low, high) in zip(point, function.view, strict=True))


@given(NUMBERS, NUMBERS)
def test_no_point_is_lower_than_the_minima_and_gradients_are_those_of_calculus(x: float, y: float) -> None:
    by_hand = {
        "parabola": [6 * x + 6],
        "ravine": [x, 18 * y],
        "rosenbrock": [-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)],
        "himmelblau": [
            4 * x * (x**2 + y - 11) + 2 * (x + y**2 - 7),
            2 * (x**2 + y - 11) + 4 * y * (x + y**2 - 7),
        ],
    }
    for name, slopes in by_hand.items():
        function, point = FUNCTIONS[name], (x, y)[: len(slopes)]
        assert function.at(point) >= function.lowest - 1e-12
        assert gradient(function, point) == pytest.approx(slopes, abs=1e-9)


@each_function
def test_the_formula_is_that_of_the_function(function: Function) -> None:
    readable = function.formula.replace("^", "**").replace("9y", "9*y").replace("100(", "100*(")
    readable = readable.replace("3x", "3*x").replace("6x", "6*x")
    draw = random.Random(0)
    for _ in range(20):
        x, y = draw.uniform(-3, 3), draw.uniform(-3, 3)
        assert function.at((x, y)[: len(function.start)]) == pytest.approx(eval(readable, {"x": x, "y": y}))


@pytest.mark.parametrize("name", ["parabola", "ravine"])
def test_gradient_descent_converges_just_below_the_largest_stable_lr_and_not_just_above(name: str) -> None:
    function = FUNCTIONS[name]
    for fraction, converges in ((0.98, True), (1.02, False)):
        point, lr = function.start, fraction * function.largest_stable_lr()
        for _ in range(400):
            point = tuple(one - lr * slope for one, slope in zip(point, gradient(function, point), strict=True))
        assert (math.dist(point, function.nearest_minimum(point)) < 1) is converges
    assert math.isclose(FUNCTIONS["parabola"].largest_stable_lr(), 1 / 3)
