"""How sure a figure is."""

import math


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
