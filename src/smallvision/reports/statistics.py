"""How sure a figure is."""

import math
from collections.abc import Collection
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval for a share of ``right`` out of ``count``, 95 % unless ``z`` says otherwise.

    E. B. Wilson, JASA 22 (1927): it keeps its level near 0 and 1, where the usual one does not.
    """
    if count == 0:
        return 0.0, 1.0
    share, squared = right / count, z * z / count
    centre = (share + squared / 2) / (1 + squared)
    half = z / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def t_interval(values: Collection[float], level: float = 0.95) -> tuple[float, float] | None:
    """The interval for the mean that ``values``, one per seed, are a sample around.

    Student, Biometrika 6 (1908): mean and standard deviation are both estimated from the same few values,
    so with two or three of them it is wide. None for fewer than two values, or where one is no number.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # only here: it takes long to load

    mean = fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def mcnemar(only_first: int, only_second: int) -> float:
    """How likely it is, were both equally good, that they differ at least so much on the same images.

    ``only_first``, ``only_second``: images that only the one gets right. The exact two-sided test of Q.
    McNemar (Psychometrika 12, 1947), which T. Dietterich (Neural Computation 10, 1998) found to be the test
    for two classifiers trained once that seldomest sees a difference where there is none.
    """
    from scipy.special import bdtr

    count, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * float(bdtr(fewer, count, 0.5))) if count else 1.0


def paired(differences: "np.ndarray[Any, Any]") -> float:
    """The same where each image has the mean over several seeds of each: Student's paired test.

    ``differences``: an image each, of the shares of seeds that got it right.
    """
    from scipy.special import stdtr

    count = len(differences)
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    if not deviation:
        return 1.0 if not count or not differences.any() else 0.0
    return 2 * float(stdtr(count - 1, -abs(float(differences.mean())) * math.sqrt(count) / deviation))


def welch(first: Collection[float], second: Collection[float]) -> float | None:
    """How likely it is, were their means equal, that the figures of these seeds differ so much.

    B. L. Welch, Biometrika 34 (1947): both spreads are estimated, and may differ. None for fewer than two
    seeds of either.
    """
    from scipy.special import stdtr

    if min(len(first), len(second)) < 2:
        return None
    parts = [stdev(values) ** 2 / len(values) for values in (first, second)]
    gap = abs(fmean(first) - fmean(second))
    if not sum(parts):
        return 0.0 if gap else 1.0
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    return 2 * float(stdtr(freedom, -gap / math.sqrt(sum(parts))))


def holm(chances: list[float]) -> list[float]:
    """The same chances, raised for that many were looked at. S. Holm, Scand. J. of Statistics 6 (1979)."""
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    raised, highest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        raised[place] = highest
    return raised
