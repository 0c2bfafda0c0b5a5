"""Means, confidence intervals and tests for accuracies and metrics."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

MAX_SEEDS = 1000  # that are asked for
MIN_SEEDS = 3  # for an interval: that of two is as wide as 9 standard deviations to either side
INTERVALS = "95 %: the interval of the mean over n seeds, of 3 or more"


@dataclass(frozen=True)
class Sample:
    """A metric of one configuration, ``values``: one per seed. ``fraction``: whether it lies between 0 and 1."""

    values: Collection[float]
    fraction: bool = False

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation (n - 1); None for fewer than two values, or where one is NaN or infinite."""
        return stdev(self.values) if len(self.values) > 1 and all(map(math.isfinite, self.values)) else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None as for the deviation, and for fewer than ``MIN_SEEDS``."""
        found = t_interval(self.values) if len(self.values) >= MIN_SEEDS else None
        return (max(found[0], 0.0), min(found[1], 1.0)) if found and self.fraction else found


def mean_curve(curves: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """A metric by epoch, the mean over the seeds that validated it; NaN and infinite values are left out."""
    found: dict[int, list[float]] = {}
    for curve in curves:
        for epoch, value in curve.items():
            if math.isfinite(value):
                found.setdefault(epoch, []).append(value)
    return {epoch: fmean(values) for epoch, values in sorted(found.items())}


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
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy.stats takes a second longer to load

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


def paired(differences: npt.NDArray[np.float64]) -> float:
    """The same p-value for several seeds of each classifier: Student's paired t-test.

    ``differences``: N, for each image the difference of the fractions of seeds that classify it correctly.
    """
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return _two_sided(float(differences.mean()) if count else 0.0, error, count - 1)


def welch(first: Collection[float], second: Collection[float]) -> float | None:
    """The p-value of so large a difference between the means of two samples of seeds, were their true means equal.

    B. L. Welch, Biometrika 34 (1947): the two variances may differ. None for fewer than two seeds of either.
    """
    if min(len(first), len(second)) < 2:
        return None
    squares = [stdev(values) ** 2 / len(values) for values in (first, second)]
    parts = sum(one**2 / (len(values) - 1) for one, values in zip(squares, (first, second), strict=True))
    freedom = sum(squares) ** 2 / parts if parts else 1.0
    return _two_sided(fmean(first) - fmean(second), math.sqrt(sum(squares)), freedom)


def seeds_needed(first: Collection[float], second: Collection[float], power: float = 0.8) -> int | None:
    """How many seeds of each of two classifiers let :func:`welch` find their difference at the 5 % level in that
    fraction of experiments, if means and variances are those of these samples. At most ``MAX_SEEDS``; None for fewer
    than two seeds of either, and where nothing differs or varies.
    """
    from scipy.special import nctdtr, stdtrit

    if min(len(first), len(second)) < 2:
        return None
    difference, squares = abs(fmean(first) - fmean(second)), [stdev(values) ** 2 for values in (first, second)]
    if not difference or not any(squares):
        return None
    for count in range(2, MAX_SEEDS):
        freedom = (count - 1) * sum(squares) ** 2 / sum(square**2 for square in squares)
        if 1 - nctdtr(freedom, difference / math.sqrt(sum(squares) / count), stdtrit(freedom, 0.975)) >= power:
            return count
    return MAX_SEEDS


def _two_sided(difference: float, error: float, freedom: float) -> float:
    """The p-value of Student's t. Without any variance, equal is chance and unequal is not."""
    from scipy.special import stdtr

    if not error:
        return 0.0 if difference else 1.0
    return 2 * float(stdtr(freedom, -abs(difference) / error))


def holm(p_values: list[float]) -> list[float]:
    """The p-values corrected for their number. S. Holm, Scandinavian Journal of Statistics 6 (1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p_values)[order]))
    return [float(value) for value in corrected]
