"""Each function has its minima where it says, and the slopes of calculus."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smallvision.config import schema as rules
from smallvision.tasks.descent.functions import FUNCTIONS, Function

ALL = list(FUNCTIONS.values())
each = pytest.mark.parametrize("function", ALL, ids=lambda function: function.name)
NUMBERS = st.floats(-6, 6)


def gradient(function: Function, place: tuple[float, ...]) -> list[float]:
    point = torch.tensor(place, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(function.value(point), point)
    return slopes.tolist()


def test_what_may_be_typed_is_what_there_is() -> None:
    rule = rules.RULES["descent.function"]
    assert all(rule.holds(name) for name in [*FUNCTIONS, "all"])
    assert rule.words.count(",") == len(FUNCTIONS)


@each
def test_minima_are_level_as_low_as_said_and_round_like_a_bowl(function: Function) -> None:
    for minimum in function.minima:
        assert function.at(minimum) == pytest.approx(function.lowest, abs=1e-20)
        assert gradient(function, minimum) == pytest.approx([0] * len(minimum), abs=1e-12)
        curvatures = torch.autograd.functional.hessian(function.value, torch.tensor(minimum, dtype=torch.float64))
        assert torch.linalg.eigvalsh(curvatures).min() > 0


@each
def test_start_and_minima_are_in_view(function: Function) -> None:
    for place in (function.start, *function.minima):
        assert all(low < one < high for one, (low, high) in zip(place, function.view, strict=True))


@given(NUMBERS, NUMBERS, st.sampled_from(ALL))
def test_nowhere_is_lower_than_the_minima(x: float, y: float, function: Function) -> None:
    assert function.at((x, y)[: len(function.start)]) >= function.lowest - 1e-12


@given(NUMBERS, NUMBERS)
def test_slopes_are_those_of_calculus(x: float, y: float) -> None:
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
        assert gradient(FUNCTIONS[name], (x, y)[: len(slopes)]) == pytest.approx(slopes, abs=1e-9)


@each
def test_a_formula_is_the_function_that_it_stands_for(function: Function) -> None:
    readable = function.formula.replace("^", "**").replace("9y", "9*y").replace("100(", "100*(")
    readable = readable.replace("3x", "3*x").replace("6x", "6*x")
    draw = random.Random(0)
    for _ in range(20):
        x, y = draw.uniform(-3, 3), draw.uniform(-3, 3)
        assert function.at((x, y)[: len(function.start)]) == pytest.approx(eval(readable, {"x": x, "y": y}))


@pytest.mark.parametrize("name", ["parabola", "ravine"])
def test_plain_steps_settle_just_below_the_stable_rate_and_not_just_above(name: str) -> None:
    function = FUNCTIONS[name]
    for share, settles in ((0.98, True), (1.02, False)):
        place, rate = function.start, share * function.stable_rate()
        for _ in range(400):
            place = tuple(one - rate * slope for one, slope in zip(place, gradient(function, place), strict=True))
        assert (function.distance(place) < 1) is settles
    assert math.isclose(FUNCTIONS["parabola"].stable_rate(), 1 / 3)
