"""The values of the searched keys, and how much each key matters."""

from pathlib import Path

import pytest

from smallvision.reports.importance import Axis, at_edge, importance
from smallvision.reports.sweep_view import SweepView, TrialView


def sweep(space: dict[str, str], *trials: tuple[dict[str, str], float]) -> SweepView:
    """Finished trials of one seed: the params of each, and its metric."""
    views = [TrialView(number, "done", params, {0: value}) for number, (params, value) in enumerate(trials)]
    return SweepView("tried", Path("tried"), "random", "val/acc", True, [0], space, [], len(views), 4, views)


def test_the_key_that_matters_is_found() -> None:
    trials = [
        ({"lr": repr(10 ** -(1 + number / 8)), "optimizer": "ab"[number % 2]}, 1 - abs(number - 12) / 20)
        for number in range(24)
    ]
    found = importance(sweep({"optimizer": "a,b", "lr": "tag(log, interval(1e-4, 1))"}, *trials))
    assert list(found.fractions) == ["lr", "optimizer"]
    assert found.fractions["lr"] > 0.8
    assert sum(found.fractions.values()) == pytest.approx(1)
    assert (found.trials, found.obstacle) == (24, "")


@pytest.mark.parametrize(
    ("space", "values", "edge"),
    [
        ("tag(log, interval(1e-4, 1e-1))", ["0.05", "0.09", "0.001"], {}),
        ("tag(log, interval(1e-4, 1e-1))", ["0.09", "0.01", "0.001"], {"lr": "largest"}),
        ("interval(0, 10)", ["0.4", "5", "9"], {"lr": "smallest"}),
        ("32,64,128", ["128", "64", "32"], {"lr": "largest"}),
        ("a,b,c", ["a", "b", "c"], {}),
        ("1,2", ["1", "2"], {}),  # of two values, one is always at the edge
    ],
)
def test_a_winner_at_the_edge_of_its_range_is_found(space: str, values: list[str], edge: dict[str, str]) -> None:
    trials = [({"lr": value}, 0.9 - 0.1 * place) for place, value in enumerate(values)]
    assert at_edge(sweep({"lr": space}, *trials)) == edge


@pytest.mark.parametrize(
    ("metrics", "values", "obstacle"),
    [
        ([0.1, 0.2, 0.3], "123", "few_trials"),
        ([0.5, 0.5, 0.5, 0.5], "1234", "same_metric"),
        ([0.1, 0.2, 0.3, 0.4], "1111", "same_values"),
        ([0.1, 0.2, 0.3, float("nan")], "1234", "few_trials"),
    ],
)
def test_where_nothing_can_be_said_the_obstacle_is_named(metrics: list[float], values: str, obstacle: str) -> None:
    trials = [({"lr": value}, metric) for value, metric in zip(values, metrics, strict=True)]
    assert importance(sweep({"lr": "1,2,3,4"}, *trials)).obstacle == obstacle


@pytest.mark.parametrize(
    ("expression", "values", "numeric", "log"),
    [
        ("tag(log, interval(0.001, 0.1))", ["0.001", "0.05", "0.1"], True, True),
        ("interval(0.001, 0.1)", ["0.001", "0.05", "0.1"], True, False),
        ("32,64,128", ["64", "32", "128"], True, True),
        ("range(1, 4)", ["1", "2", "3"], True, False),
        ("1,2,3,4", ["1", "2", "3", "4"], True, False),
        ("tag(log, interval(0, 1))", ["0.0", "1.0"], True, False),
        ("null,0.1", ["null", "0.1"], False, False),
        ("nan,0.1", ["nan", "0.1"], False, False),
        ("choice(log, linear)", ["log", "linear"], False, False),
        ("1,2", [], False, False),
    ],
)
def test_an_axis_is_numeric_or_logarithmic_by_its_values(
    expression: str, values: list[str], numeric: bool, log: bool
) -> None:
    view = sweep({"a": expression}, *(({"a": value}, 0.5) for value in values))
    axis = Axis.of(view, "a", view.trials)
    assert (axis.numbers is not None, axis.log) == (numeric, log)
