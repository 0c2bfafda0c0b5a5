"""Intervals and tests against known values and scipy's."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smallvision.reports.statistics import (
    MAX_SEEDS,
    holm,
    mcnemar,
    paired,
    seeds_needed,
    t_interval,
    welch,
    wilson,
)

SAMPLES = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=2, max_size=30)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (9, 10, 0.5958, 0.9821),  # these as R's prop.test(x, n, correct=FALSE) gives them
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_known_one(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def test_no_images_give_the_interval_of_all_fractions() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("count", [1, 7, 100, 10_000])
def test_the_interval_contains_the_fraction_and_is_symmetric(count: int) -> None:
    for right in {0, 1, count // 3, count - 1, count}:
        low, high = wilson(right, count)
        assert 0 <= low <= right / count <= high <= 1
        assert (1 - high, 1 - low) == pytest.approx(wilson(count - right, count), abs=1e-12)


def test_more_images_make_it_narrower() -> None:
    widths = [high - low for low, high in (wilson(9 * n, 10 * n) for n in (1, 10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


def test_its_bounds_solve_the_equation_they_come_from() -> None:
    for bound in wilson(37, 50, z=2.5):
        assert abs(37 / 50 - bound) == pytest.approx(2.5 * math.sqrt(bound * (1 - bound) / 50))


@pytest.mark.parametrize(
    ("count", "level", "t"),
    [
        (2, 0.95, 12.7062), (3, 0.95, 4.3027), (5, 0.95, 2.7764), (10, 0.95, 2.2622), (31, 0.95, 2.0423),
        (3, 0.99, 9.9248), (10, 0.9, 1.8331),
    ],
)  # fmt: skip
def test_the_interval_of_a_mean_has_the_known_quantile_of_students_t(count: int, level: float, t: float) -> None:
    values = [float(one) for one in range(count)]
    low, high = t_interval(values, level) or (0.0, 0.0)
    deviation = math.sqrt(sum((one - (count - 1) / 2) ** 2 for one in values) / (count - 1))
    assert (low + high) / 2 == pytest.approx((count - 1) / 2)
    assert (high - low) / 2 == pytest.approx(t * deviation / math.sqrt(count), rel=2e-5)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, math.nan], [0.5, math.inf], [-math.inf, math.inf]])
def test_too_few_values_have_no_interval(values: list[float]) -> None:
    assert t_interval(values) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)


@given(SAMPLES, SAMPLES)
def test_paired_and_welch_are_the_textbooks(first, second):
    count = min(len(first), len(second))
    differences = np.array(first[:count]) - np.array(second[:count])
    if differences.std() > 1e-9:
        assert paired(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    if np.std(first) > 1e-9 or np.std(second) > 1e-9:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy about values that are nearly equal
            expected = stats.ttest_ind(first, second, equal_var=False).pvalue
        assert welch(first, second) == pytest.approx(expected)


def test_without_any_variance_equal_is_chance_and_unequal_is_not():
    assert paired(np.zeros(5)) == 1.0
    assert paired(np.ones(5)) == 0.0
    assert welch([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert welch([0.5, 0.5], [0.6, 0.6]) == 0.0
    assert welch([0.5], [0.6, 0.6]) is None


def test_p_values_are_corrected_as_holm_has_it():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(("difference", "seeds"), [(1.0, 17), (0.5, 64), (2.0, 6), (0.01, MAX_SEEDS)])
def test_the_seeds_that_a_difference_needs_are_those_of_the_t_tests_tables(difference, seeds):
    """J. Cohen, Statistical Power Analysis (1988): of two samples of standard deviation 1, power 0.8, 5 % two-sided."""
    first = [-(0.5**0.5), 0.5**0.5]
    assert seeds_needed(first, [value + difference for value in first]) == seeds


@pytest.mark.parametrize("second", [[0.5], [0.1, 0.1], [0.0, 0.0]])
def test_without_variance_difference_or_a_second_seed_no_number_of_seeds_is_known(second):
    assert seeds_needed([0.0, 0.0], second) is None
