"""A trajectory is computed with what trains networks: the optimizers, the schedules and the clipping."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.config.compose import CONFIG_DIR, compose, compose_section
from smallvision.config.resolve import resolve_config
from smallvision.config.schema import Config, Optimizer
from smallvision.config.targets import instantiate
from smallvision.core.errors import UserError
from smallvision.tasks.descent.trajectory import FUNCTIONS, Trajectory, descend
from smallvision.training.schedules import at_step

OPTIMIZERS = sorted(file.stem for file in (CONFIG_DIR / "optimizer").glob("[!_]*.yaml") if file.stem != "own")
SCHEDULERS = sorted(file.stem for file in (CONFIG_DIR / "scheduler").glob("[!_]*.yaml") if file.stem != "own")
PARABOLA = FUNCTIONS["parabola"]


@cache
def section(group: str, choice: str) -> dict[str, Any]:
    return compose_section(group, choice)


@cache
def task_config() -> Config:
    return resolve_config(compose(["task=descent"]), ["task=descent"])


def descended(
    optimizer: str | dict[str, Any] = "gd",
    function: str = "parabola",
    steps: int = 20,
    scheduler: str = "none",
    start: tuple[float, ...] | None = None,
    weight: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    **own: Any,
) -> Trajectory:
    chosen = section("optimizer", optimizer) if isinstance(optimizer, str) else optimizer
    config = task_config().updated({"scheduler": section("scheduler", scheduler), "trainer": trainer or {}})
    config = replace(config, optimizer=Optimizer.from_dict({**chosen, **own}))
    weight_group = replace(config.param_groups.weight, **(weight or {}))
    config = replace(config, param_groups=replace(config.param_groups, weight=weight_group))
    return descend(config, FUNCTIONS[function], start or FUNCTIONS[function].start, steps, config.optimizer.name)


def made(gaps: list[float], cut: bool = False) -> Trajectory:
    """A trajectory on the parabola with these gaps to its minimum."""
    points, steps = [(-1 + math.sqrt(gap / 3),) for gap in gaps], len(gaps) - 1
    return Trajectory(PARABOLA, "made", steps + cut, points, [gap - 12 for gap in gaps], [0.1] * steps)


# What moves the point ------------------------------------------------------------------------------------------------


def test_plain_steps_down_the_parabola_are_the_tutorials() -> None:
    found = descended()
    assert [point[0] for point in found.points] == pytest.approx([-1 + 11 * 0.4**step for step in range(21)], rel=1e-14)
    assert found.values == pytest.approx([-12 + 363 * 0.16**step for step in range(21)], rel=1e-14)
    assert found.lrs == [0.1] * 20
    assert (found.converged_after, found.diverged_after) == (6, None)  # 0.4^6 is the first power below 1 %


@given(st.floats(-500, 500), st.floats(1e-4, 0.5), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_plain_steps_follow_the_closed_form_from_anywhere_at_any_rate(start: float, rate: float, steps: int) -> None:
    found = descended(start=(start,), lr=rate, steps=steps)
    expected = [-1 + (start + 1) * (1 - 6 * rate) ** step for step in range(steps + 1)]
    assert [point[0] for point in found.points] == pytest.approx(expected, rel=1e-9, abs=1e-9 * abs(start + 2))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_of_the_project_works_on_every_function(optimizer: str, function: str) -> None:
    found = descended(optimizer, function, steps=30)
    assert all(map(math.isfinite, found.values))
    assert len(found.points) == len(found.values) == len(found.lrs) + 1
    if found.diverged_after is None:
        assert len(found.lrs) == 30
        assert found.values[-1] < found.values[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_schedule_of_the_project_sets_the_rates(scheduler: str) -> None:
    factor = at_step(instantiate("scheduler", section("scheduler", scheduler)), 20)
    found = descended(scheduler=scheduler)
    assert found.lrs == pytest.approx([0.1 * factor(step) for step in range(20)])
    assert (len(set(found.lrs)) == 1) is (scheduler == "none")


def test_the_point_is_a_weight_with_values_of_its_own() -> None:
    assert descended(weight={"lr": 0.02}).lrs == [0.02] * 20
    assert descended(weight={"lr": 0.02}).points == descended(lr=0.02).points
    assert descended(weight={"weight_decay": 6.0}).points == descended(weight_decay=6.0).points
    assert descended(weight_decay=6.0, steps=200).points[-1][0] == pytest.approx(-0.5)  # 6x + 6 + 6x = 0


def test_clipping_is_that_of_training() -> None:
    by_norm = descended(trainer={"gradient_clip_val": 1.0, "gradient_clip_algorithm": "norm"}, steps=3)
    by_value = descended(trainer={"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}, steps=3)
    assert [point[0] for point in by_value.points] == pytest.approx([10, 9.9, 9.8, 9.7])
    assert [point[0] for point in by_norm.points] == pytest.approx([10, 9.9, 9.8, 9.7], abs=1e-6)


def test_muon_takes_steps_of_one_length_for_a_point_is_a_matrix_of_one_row() -> None:
    found = descended("muon", "ravine", steps=10, momentum=0.0, weight_decay=0.0)
    lengths = [math.dist(*pair) for pair in zip(found.points[1:], found.points, strict=False)]
    assert max(lengths) / min(lengths) < 1.02  # torch makes the step in bfloat16


def test_lbfgs_which_evaluates_several_times_a_step_works_too() -> None:
    lbfgs = {"name": "lbfgs", "_target_": "torch.optim.LBFGS", "lr": 1.0, "line_search_fn": "strong_wolfe"}
    found = descended(lbfgs, "rosenbrock", steps=10)
    assert found.converged_after is not None


def test_arguments_that_an_optimizer_rejects_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="optimizer=gd: a leaf Variable"):
        descended(differentiable=True)
    with pytest.raises(UserError, match=r"optimizer.*Nesterov"):
        descended(nesterov=True)


# What is reported of it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", FUNCTIONS)
def test_far_too_large_a_learning_rate_diverges_and_the_trajectory_ends_at_the_last_finite_value(function: str) -> None:
    found = descended(function=function, lr=1e3, steps=300)
    assert found.diverged_after == 1
    assert len(found.lrs) < found.steps
    assert all(map(math.isfinite, [*found.values, *(one for point in found.points for one in point)]))
    assert found.converged_after is None


def test_a_learning_rate_a_little_too_large_diverges_though_all_values_are_finite() -> None:
    found = descended(lr=0.35)
    assert (found.diverged_after, len(found.lrs)) == (1, found.steps)
    assert descended(lr=0.33).diverged_after is None


@pytest.mark.parametrize(
    ("gaps", "diverged", "converged"),
    [
        ([100, 50, 1, 0.001], None, 3),
        ([100, 0.001, 50, 0.001], None, 3),  # passing the minimum is not convergence
        ([100, 0.001, 0.001], None, 1),
        ([100, 90, 150], None, None),
        ([100, 90, 150, 300], 2, None),
        ([100, 300, 90, 300, 400], 3, None),
        ([0, 0], None, 0),
    ],
)
def test_when_it_diverged_and_when_it_converged(gaps: list[float], diverged: int | None, converged: int | None) -> None:
    found = made(gaps)
    assert (found.diverged_after, found.converged_after) == (diverged, converged)


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        (-1.0, "converged after step 1"),
        (1.2, "20 % of the distance remains"),
        (90.0, "diverged after step 1"),
    ],
)
def test_how_it_ended_in_words(end: float, ending: str) -> None:
    assert Trajectory(PARABOLA, "made", 1, [(10.0,), (end,)], [363.0, PARABOLA.at((end,))], [0.1]).ending == ending


def test_a_trajectory_from_the_minimum_may_leave_it() -> None:
    found = Trajectory(PARABOLA, "made", 1, [(-1.0,), (-0.5,)], [-12.0, PARABOLA.at((-0.5,))], [0.1])
    assert found.ending == "left the minimum"
    assert math.isinf(found.remaining[-1])


def test_a_trajectory_without_a_finite_step_diverged_after_step_1() -> None:
    assert made([100], cut=True).diverged_after == 1


def test_trajectories_are_reproducible_to_the_last_bit() -> None:
    torch.manual_seed(0)
    first = descended("adam", "himmelblau", lr=0.3)
    torch.manual_seed(1)
    assert descended("adam", "himmelblau", lr=0.3) == first
