"""Learning rates are pure functions of the step."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from smallvision.training.schedules import LRLambda, at_step, constant, cosine, linear, one_cycle

SCHEDULES: dict[str, Callable[..., LRLambda]] = {
    "constant": lambda warmup, final_ratio: constant(warmup),
    "linear": linear,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
FALLING = ["linear", "cosine", "one_cycle"]
WARMUPS = [0.0, 0.1, 0.5, 1.0]
GRID = [i / 400 for i in range(401)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_a_warm_up_the_first_rate_is_the_whole(name: str) -> None:
    assert SCHEDULES[name](0.0, 0.25)(0.0) == 1


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("final_ratio", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", FALLING)
def test_a_fall_ends_on_its_final_ratio(name: str, warmup: float, final_ratio: float) -> None:
    assert SCHEDULES[name](warmup, final_ratio)(1.0) == pytest.approx(final_ratio, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warm_up_ends_on_the_whole_rate(name: str, warmup: float) -> None:
    factor = SCHEDULES[name](warmup, 0.0)
    assert factor(warmup) == pytest.approx(1)
    assert factor(warmup - 1e-9) == pytest.approx(1)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_the_warm_up_is_a_straight_line_from_0(name: str) -> None:
    factor = SCHEDULES[name](0.2, 0.0)
    assert [factor(p) for p in (0.0, 0.05, 0.1, 0.15)] == pytest.approx([0, 0.25, 0.5, 0.75])


def test_one_cycle_rises_from_a_twenty_fifth() -> None:
    factor = one_cycle(0.5)
    assert factor(0.0) == pytest.approx(1 / 25)
    assert factor(0.25) == pytest.approx((1 + 1 / 25) / 2)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("final_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_rises_in_the_warm_up_then_never_again(name: str, warmup: float, final_ratio: float) -> None:
    factor = SCHEDULES[name](warmup, final_ratio)
    rates = [factor(p) for p in GRID]
    assert all(0 <= rate <= 1 + 1e-12 for rate in rates)
    for (p, before), (q, after) in pairwise(zip(GRID, rates, strict=True)):
        if q <= warmup:
            assert after > before
        elif p >= warmup:
            assert after <= before + 1e-12


def test_halfway_values_are_the_known_ones() -> None:
    assert linear(0.0, 0.2)(0.5) == pytest.approx(0.6)
    assert cosine(0.0, 0.2)(0.5) == pytest.approx(0.6)
    assert cosine(0.0, 0.0)(0.25) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert constant()(0.5) == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_depends_on_its_step_alone(name: str) -> None:
    at = at_step(SCHEDULES[name](0.3, 0.1), 50)
    forwards = [at(step) for step in range(50)]
    backwards = [at(step) for step in reversed(range(50))]
    fresh = [at_step(SCHEDULES[name](0.3, 0.1), 50)(step) for step in range(50)]
    assert forwards == backwards[::-1] == fresh


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_no_step_is_wasted_on_a_rate_of_0(name: str, steps: int) -> None:
    at = at_step(SCHEDULES[name](0.2, 0.0), steps)
    assert all(at(step) > 0 for step in range(steps))


@pytest.mark.parametrize("name", SCHEDULES)
def test_beyond_the_end_the_rate_stays(name: str) -> None:
    at = at_step(SCHEDULES[name](0.2, 0.25), 10)
    assert at(10) == at(11) == at(10**9) == SCHEDULES[name](0.2, 0.25)(1.0)


def test_more_steps_cut_the_same_curve_finer() -> None:
    coarse, fine = at_step(cosine(0.1), 100), at_step(cosine(0.1), 300)
    assert [coarse(step) for step in range(100)] == pytest.approx([fine(3 * step + 1) for step in range(100)])


def test_the_cosine_is_torchs_own_half_a_step_on() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1.0)
    ours = torch.optim.SGD([parameter], lr=1.0)
    torchs, lambdas = CosineAnnealingLR(theirs, 40), LambdaLR(ours, at_step(cosine(), 20))
    torch_rates, our_rates = [], []
    for step in range(40):
        if step % 2 == 1:
            torch_rates.append(torchs.get_last_lr()[0])
            our_rates.append(lambdas.get_last_lr()[0])
            ours.step()
            lambdas.step()
        theirs.step()
        torchs.step()
    assert our_rates == pytest.approx(torch_rates, abs=1e-9)
