"""A walk is what training does, on one point: its optimizers, its schedules, its clipping."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.config.schema import PARAM_KINDS
from smallvision.config.targets import build
from smallvision.core.errors import UserError
from smallvision.tasks.descent.functions import FUNCTIONS
from smallvision.tasks.descent.walk import Walk, walk
from smallvision.training.schedules import at_step

CONFIGS = Path(__file__).parents[3] / "configs"
OPTIMIZERS = sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(file.stem for file in (CONFIGS / "scheduler").glob("*.yaml"))
PARABOLA = FUNCTIONS["parabola"]


def section(group: str, name: str, **other: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text()), **other}


def walked(
    optimizer: str | dict[str, Any] = "gd",
    function: str = "parabola",
    steps: int = 20,
    scheduler: str = "none",
    start: tuple[float, ...] | None = None,
    weight: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    **own: Any,
) -> Walk:
    none = {"lr": None, "weight_decay": None}
    config = {
        "param_groups": {**dict.fromkeys(PARAM_KINDS, none), "weight": {**none, **(weight or {})}},
        "scheduler": section("scheduler", scheduler),
        "trainer": trainer or {},
    }
    chosen = FUNCTIONS[function]
    mover = section("optimizer", optimizer, **own) if isinstance(optimizer, str) else optimizer
    return walk(config, mover, chosen, start or chosen.start, steps, mover["name"])


def made(values: list[float], cut: bool = False) -> Walk:
    """A walk along the parabola with these heights above its minimum."""
    places = [(-1 + math.sqrt(value / 3),) for value in values]
    return Walk(PARABOLA, "made", places, [value - 12 for value in values], [0.1] * (len(values) - 1), cut)


# What walks ------------------------------------------------------------------------------------------------


def test_plain_steps_down_the_parabola_are_the_tutorials() -> None:
    found = walked()
    assert [place[0] for place in found.places] == pytest.approx([-1 + 11 * 0.4**step for step in range(21)], rel=1e-14)
    assert found.values == pytest.approx([-12 + 363 * 0.16**step for step in range(21)], rel=1e-14)
    assert found.rates == [0.1] * 20
    assert (found.settled, found.diverged) == (6, None)  # 0.4^6 is the first power below 1 %


@given(st.floats(-500, 500), st.floats(1e-4, 0.5), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_plain_steps_follow_the_closed_form_from_anywhere_at_any_rate(start: float, rate: float, steps: int) -> None:
    found = walked(start=(start,), lr=rate, steps=steps)
    expected = [-1 + (start + 1) * (1 - 6 * rate) ** step for step in range(steps + 1)]
    assert [place[0] for place in found.places] == pytest.approx(expected, rel=1e-9, abs=1e-9 * abs(start + 2))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_of_the_project_walks_every_function(optimizer: str, function: str) -> None:
    found = walked(optimizer, function, steps=30)
    assert all(map(math.isfinite, found.values))
    assert len(found.places) == len(found.values) == len(found.rates) + 1
    if found.diverged is None:
        assert len(found.rates) == 30
        assert found.values[-1] < found.values[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_schedule_of_the_project_sets_the_rates(scheduler: str) -> None:
    factor = at_step(build("scheduler", section("scheduler", scheduler)), 20)
    found = walked(scheduler=scheduler)
    assert found.rates == pytest.approx([0.1 * factor(step) for step in range(20)])
    assert (len(set(found.rates)) == 1) is (scheduler == "none")


def test_the_point_is_a_weight_with_values_of_its_own() -> None:
    assert walked(weight={"lr": 0.02}).rates == [0.02] * 20
    assert walked(weight={"lr": 0.02}).places == walked(lr=0.02).places
    assert walked(weight={"weight_decay": 6.0}).places == walked(weight_decay=6.0).places
    assert walked(weight_decay=6.0, steps=200).places[-1][0] == pytest.approx(-0.5)  # 6x + 6 + 6x = 0


def test_clipping_is_that_of_training() -> None:
    by_norm = walked(trainer={"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"}, steps=3)
    by_value = walked(trainer={"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, steps=3)
    assert [place[0] for place in by_value.places] == pytest.approx([10, 9.9, 9.8, 9.7])
    assert [place[0] for place in by_norm.places] == pytest.approx([10, 9.9, 9.8, 9.7], abs=1e-6)


def test_muon_takes_steps_of_one_length_for_a_point_is_a_matrix_of_one_row() -> None:
    found = walked("muon", "ravine", steps=10, momentum=0.0, weight_decay=0.0)
    lengths = [math.dist(*pair) for pair in zip(found.places[1:], found.places, strict=False)]
    assert max(lengths) / min(lengths) < 1.02  # torch makes the step in bfloat16


def test_lbfgs_which_looks_several_times_a_step_walks_too() -> None:
    lbfgs = {"name": "lbfgs", "_target_": "torch.optim.LBFGS", "lr": 1.0, "line_search_fn": "strong_wolfe"}
    found = walked(lbfgs, "rosenbrock", steps=10)
    assert found.settled is not None


def test_what_an_optimizer_cannot_do_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="optimizer=gd: a leaf Variable"):
        walked(differentiable=True)
    with pytest.raises(UserError, match=r"optimizer.*Nesterov"):
        walked(nesterov=True)


# What is said of it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
def test_far_too_large_a_rate_diverges_and_ends_at_the_last_number(function: str) -> None:
    found = walked(function=function, lr=1e3, steps=300)
    assert found.diverged == 1
    assert found.cut
    assert all(map(math.isfinite, [*found.values, *(one for place in found.places for one in place)]))
    assert found.settled is None


def test_a_rate_a_little_too_large_diverges_though_all_its_numbers_are_small() -> None:
    found = walked(lr=0.35)
    assert (found.diverged, found.cut) == (1, False)
    assert walked(lr=0.33).diverged is None


@pytest.mark.parametrize(
    ("heights", "diverged", "settled"),
    [
        ([100, 50, 1, 0.001], None, 3),
        ([100, 0.001, 50, 0.001], None, 3),  # passing through is not being there
        ([100, 0.001, 0.001], None, 1),
        ([100, 90, 150], None, None),
        ([100, 90, 150, 300], 2, None),
        ([100, 300, 90, 300, 400], 3, None),
        ([0, 0], None, 0),
    ],
)
def test_when_it_diverged_and_when_it_was_there(
    heights: list[float], diverged: int | None, settled: int | None
) -> None:
    found = made(heights)
    assert (found.diverged, found.settled) == (diverged, settled)


def test_a_walk_that_was_cut_at_once_diverged_at_once() -> None:
    assert made([100], cut=True).diverged == 1


def test_the_same_walk_twice_is_the_same_to_the_last_bit() -> None:
    torch.manual_seed(0)
    first = walked("adam", "himmelblau", lr=0.3)
    torch.manual_seed(1)
    assert walked("adam", "himmelblau", lr=0.3) == first
