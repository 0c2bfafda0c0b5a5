"""Numbers, times and values as people read them."""

import pytest

from smallvision.reports import formatting

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98712, "0.9871"), (0.0, "0.0000"), (12.3, "12.3000"), (0.000123456, "0.0001235"), (123456.7, "1.235e+05"),
     (None, "-"), (NAN, "NaN"), (INF, "inf")],
)  # fmt: skip
def test_a_metric_has_the_digits_that_distinguish_runs(value: float | None, text: str) -> None:
    assert formatting.metric(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.000837, "0.00084"), (0.0013, "0.0013"), (0.25, "0.25"), (12.3, "12"), (0.0, "0"), (1e-9, "1.0e-09"),
     (None, "-"), (NAN, "nan")],
)  # fmt: skip
def test_a_standard_deviation_has_two_digits(value: float | None, text: str) -> None:
    assert formatting.two_digits(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.25, "4.2 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"),
     (90_000, "25 h 0 min"), (None, "-"), (NAN, "-")],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("0.002362151656910069", "0.002362"), ("0.001", "0.001"), ("adam", "adam"), ("a" * 50, "a" * 39 + "…")],
)
def test_long_values_are_shortened(value: str, text: str) -> None:
    assert formatting.shorten(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([1, 2], "1 and 2"), ([1, 2, 3], "1, 2 and 3")]
)  # fmt: skip
def test_numbers_are_listed(numbers: list[int], text: str) -> None:
    assert formatting.listing(numbers) == text


def test_a_long_list_ends_with_the_number_of_those_left_out() -> None:
    assert formatting.listing(list(range(1012))).endswith("10, 11 and 1,000 more")


def test_one_is_singular_and_any_other_number_is_plural() -> None:
    assert [formatting.count(n, "epoch") for n in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]
