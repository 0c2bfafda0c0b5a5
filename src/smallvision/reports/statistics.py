"""Confidence intervals and tests for accuracies and metrics."""

import math
from collections.abc import Collection
from statistics import fmean, stdev
from typing import Any

import numpy as np


def wilson(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval for a fraction of ``correct`` out of ``count``, of 95 % for the default ``z``.

    E. B. Wilson, JASA 22 (1927): unlike the normal approximation, it keeps its level near 0 and 1.
    """
    if count == 0:
        return 0.0, 1.0
    fraction, squared = correct / count, z * z / count
    centre = (fraction + squared / 2) / (1 + squared)
    half = z / (1 + squared) * math.sqrt(fraction * (1 - fraction) / count + squared / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def t_interval(values: Collection[float], level: float = 0.95) -> tuple[float, float] | None:
    """The interval for the mean of the distribution that ``values``, one per seed, are a sample of.

    Student, Biometrika 6 (1908): mean and standard deviation are both estimated from the same few values, so with two
    or three of them it is wide. None for fewer than two values, or where one is NaN or infinite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # only here: it takes long to load

    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of so large a difference between two classifiers on the same images, were both equally good.

    ``only_first``, ``only_second``: images that only the one classifies correctly. The exact two-sided test of
    Q. McNemar (Psychometrika 12, 1947). Of the tests for two classifiers trained once, T. Dietterich (Neural
    Computation 10, 1998) found that it reports the fewest differences where there are none.
    """
    from scipy.special import bdtr

    count, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * float(bdtr(fewer, count, 0.5))) if count else 1.0


def paired(differences: np.ndarray[Any, Any]) -> float:
    """The same p-value for several seeds of each classifier: Student's paired t-test.

    ``differences``: N, for each image the difference of the fractions of seeds that classify it correctly.
    """
    from scipy.special import stdtr

    count = len(differences)
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    if not deviation:
        return 1.0 if not count or not differences.any() else 0.0
    return 2 * float(stdtr(count - 1, -abs(float(differences.mean())) * math.sqrt(count) / deviation))


def welch(first: Collection[float], second: Collection[float]) -> float | None:
    """The p-value of so large a difference between the means of two samples of seeds, were their true means equal.

    B. L. Welch, Biometrika 34 (1947): the two variances may differ. None for fewer than two seeds of either.
    """
    from scipy.special import stdtr

    if min(len(first), len(second)) < 2:
        return None
    errors = [stdev(values) ** 2 / len(values) for values in (first, second)]
    difference = abs(fmean(first) - fmean(second))
    if not sum(errors):
        return 0.0 if difference else 1.0
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (first, second), strict=True)
    )
    return 2 * float(stdtr(freedom, -difference / math.sqrt(sum(errors))))


def holm(p_values: list[float]) -> list[float]:
    """The p-values corrected for their number. S. Holm, Scandinavian Journal of Statistics 6 (1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p_values)[order]))
    return [float(value) for value in corrected]
