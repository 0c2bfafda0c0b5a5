"""Figures, times and values as a reader has them."""

import pytest

from smallvision.reports import words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98712, "0.9871"), (0.0, "0.0000"), (12.3, "12.3000"), (0.000123456, "0.0001235"),
     (123456.7, "1.235e+05"), (None, "-"), (float("nan"), "NaN"), (float("inf"), "inf")],
)  # fmt: skip
def test_a_figure_has_the_digits_that_tell_runs_apart(value: float | None, text: str) -> None:
    assert words.figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000837, "0.00084"), (0.0013, "0.0013"), (0.25, "0.25"), (12.3, "12"), (0.0, "0"), (1e-9, "1.0e-09"),
     (None, "-"), (float("nan"), "nan")],
)  # fmt: skip
def test_a_spread_has_two_digits(value: float | None, text: str) -> None:
    assert words.spread(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"),
     (90_000, "25 h 0 min"), (None, "-"), (float("nan"), "-")],
)  # fmt: skip
def test_a_time_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.002362151656910069", "0.002362"), ("0.001", "0.001"), ("adam", "adam"), ("a" * 50, "a" * 39 + "…")],
)
def test_long_values_are_cut(value: str, text: str) -> None:
    assert words.short(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([1, 2], "1 and 2"), ([1, 2, 3], "1, 2 and 3")],
)
def test_numbers_are_listed(numbers: list[int], text: str) -> None:
    assert words.listed(numbers) == text


def test_a_long_list_says_how_many_more_there_are() -> None:
    assert words.listed(list(range(1012))).endswith("10, 11 and 1,000 more")
