"""Figures, times and values as a reader has them."""

import math


def figure(value: float | None) -> str:
    """A metric with the digits that tell runs apart."""
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def spread(value: float | None) -> str:
    """A deviation or half an interval: two digits say all that so few seeds know of it."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-5 <= abs(value) < 1e4:
        return f"{value:.1e}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(abs(value))))}f}"


def duration(seconds: float | None) -> str:
    """In the two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short(value: str, length: int = 40) -> str:
    """A drawn number with the digits that matter to a reader; other words cut where they are long."""
    try:
        return value if len(value) < 9 else f"{float(value):.4g}"
    except ValueError:
        return value if len(value) <= length else f"{value[: length - 1]}…"


def counted(count: int, one: str, more: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def listed(numbers: list[int], most: int = 12) -> str:
    """``"1, 2 and 3"``, cut where there are many."""
    words = [str(number) for number in numbers]
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most:,} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
