"""What the searched keys' values are, and how much each key matters."""

from pathlib import Path

import pytest

from smallvision.reports import searched
from smallvision.reports.pages import NoPicture
from smallvision.reports.sweep_view import SweepView, TrialView


def sweep(space: dict[str, str], *trials: tuple[dict[str, str], float]) -> SweepView:
    """Finished trials of one seed: what each was given, and its figure."""
    views = [TrialView(number, "done", given, {0: value}, {}, {}) for number, (given, value) in enumerate(trials)]
    return SweepView("tried", Path("tried"), "random", "val/acc", True, [0], space, [], len(views), 4, views)


def test_what_matters_is_found() -> None:
    trials = [
        ({"lr": repr(10 ** -(1 + number / 8)), "optimizer": "ab"[number % 2]}, 1 - abs(number - 12) / 20)
        for number in range(24)
    ]
    shares, words = searched.importance(sweep({"optimizer": "a,b", "lr": "tag(log, interval(1e-4, 1))"}, *trials))
    assert list(shares) == ["lr", "optimizer"]
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert "24 finished trials" in words


@pytest.mark.parametrize(
    ("figures", "values", "reason"),
    [
        ([0.1, 0.2, 0.3], "123", "there are 3"),
        ([0.5, 0.5, 0.5, 0.5], "1234", "same figure"),
        ([0.1, 0.2, 0.3, 0.4], "1111", "same values"),
        ([0.1, 0.2, 0.3, float("nan")], "1234", "there are 3"),
    ],
)
def test_where_nothing_can_be_said_of_what_matters_it_says_why(figures: list[float], values: str, reason: str) -> None:
    trials = [({"lr": value}, figure) for value, figure in zip(values, figures, strict=True)]
    with pytest.raises(NoPicture, match=reason):
        searched.importance(sweep({"lr": "1,2,3,4"}, *trials))


@pytest.mark.parametrize(
    ("expression", "values", "numbers", "log"),
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
def test_an_axis_is_what_its_values_are(expression: str, values: list[str], numbers: bool, log: bool) -> None:
    view = sweep({"a": expression}, *(({"a": value}, 0.5) for value in values))
    found = searched.axis(view, "a", view.trials)
    assert (found.numbers is not None, found.log) == (numbers, log)
