"""Numbers and times as people read them: filters of the pages' templates, and cells of tables."""

import math


def metric(value: float | None) -> str:
    """With the digits that distinguish runs."""
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def percent(fraction: float | None, digits: int = 1) -> str:
    return "-" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.{digits}f} %"


def two_digits(value: float | None) -> str:
    """A standard deviation or half an interval, which a few seeds do not determine any better."""
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
    rounded = round(seconds)
    if rounded < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def shorten(value: str, length: int = 40) -> str:
    """A long number with four digits; any other text cut at ``length``."""
    try:
        return value if len(value) < 9 else f"{float(value):.4g}"
    except ValueError:
        return value if len(value) <= length else f"{value[: length - 1]}…"


def thousands(count: int) -> str:
    return f"{count:,}"


def count(number: int, noun: str) -> str:
    """``"1 epoch"``, ``"1,000 epochs"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(numbers: list[int], limit: int = 12) -> str:
    """``"1, 2 and 3"``, with the number of those that were left out."""
    texts = [str(number) for number in numbers]
    if len(texts) > limit:
        return f"{', '.join(texts[:limit])} and {len(texts) - limit:,} more"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


FILTERS = (metric, percent, two_digits, duration, shorten, thousands, count, listing)
