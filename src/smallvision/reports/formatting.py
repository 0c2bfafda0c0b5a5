"""Numbers, times, values and images as people read them, and the templates and tables that are filled with them."""

import base64
import csv
import io
import math
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from smallvision.core.errors import printable
from smallvision.reports.statistics import Sample


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


def spread(sample: Sample, none: str = "") -> str:
    """The 95 % interval of a mean: its half after ±, or both ends where it was cut at 0 or at 1."""
    if sample.interval is None:
        return none
    low, high = sample.interval
    whole = not sample.fraction or 0 < low <= high < 1 or low == high
    return f"± {two_digits((high - low) / 2)}" if whole else f"{metric(low)} to {metric(high)}"


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


def setting(value: object, none: str = "null") -> str:
    """A value of a config as YAML has it, ``none`` for null."""
    if value is None:
        return none
    return str(value).lower() if isinstance(value, bool) else str(value)


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


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """``optimizer.lr`` as ``lr``, where no other of the keys ends so."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def position(value: float, low: float, high: float) -> float:
    """From 0 to 100 on a scale from ``low`` to ``high``; beyond its ends it is the nearer one."""
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)


def link(path: Path, folder: Path) -> str:
    """The address of ``path`` in a page that lies in ``folder``; empty where that is on another drive."""
    try:
        return "./" + quote(os.path.relpath(path, folder).replace(os.sep, "/"), errors="replace")
    except ValueError:
        return ""


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """A PNG as a ``data:`` address. ``image``: H x W x C, grey, RGB or RGBA; of others the first channel."""
    from PIL import Image  # only here and below: refusals do not wait for what pages need

    pixels, file = image if image.shape[2] in (3, 4) else image[:, :, 0], io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


FILTERS = (
    metric, percent, two_digits, spread, duration, setting, shorten, thousands, count, listing, short_names, position,
    link, data_uri,
)  # fmt: skip


def render(template: str, package: str = "smallvision.reports", **values: object) -> str:
    """The filled-in ``template``, which lies in the folder ``templates`` of ``package`` and may extend ``base.html``.

    All values are escaped, and control characters made visible.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [str(resources.files(name) / "templates") for name in (package, "smallvision.reports")]
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
        finalize=_printable,
        loader=FileSystemLoader(folders),
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    written = datetime.now().strftime("%Y-%m-%d %H:%M")
    return environment.get_template(template).render(written=written, **values)


def _printable(value: object) -> object:
    """Applied to every value that a template inserts."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, None as an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        ["" if value is None else printable(str(value)) for value in row] for row in rows
    )
    return text.getvalue()


def text_table(
    numbers: Iterable[str], texts: Iterable[str], rows: Iterable[list[str]], notes: str, style: str = "dim"
) -> Table:
    """A ranking for the terminal: columns of ``numbers``, the rank first, then columns of ``texts``; notes below."""
    table = Table(box=None, header_style="bold", caption=Text(printable(notes), style=style), caption_justify="left")
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    cells_of = list(rows)
    *others, last = texts
    for name in others:
        table.add_column(Text(printable(name)), overflow="ellipsis", min_width=min(len(name), 11))
    longest = max((len(re.split("[ ,]", row[-1])[0]) for row in cells_of), default=0)
    table.add_column(Text(last), overflow="ellipsis", min_width=min(longest, 24))
    for rank, *cells in cells_of:
        table.add_row(*(Text(printable(cell)) for cell in (rank, *cells)), style="bold" if rank == "1" else None)
    return table
