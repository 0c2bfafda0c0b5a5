"""How sure a figure is."""

import math
from collections.abc import Collection
from statistics import fmean, stdev


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
