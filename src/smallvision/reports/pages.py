"""Self-contained HTML pages from Jinja templates: no script, no font, no request."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from smallvision.core.errors import printable
from smallvision.reports.formatting import FILTERS, shorten


def render(template: str, package: str = "smallvision.reports", **values: Any) -> str:
    """The filled-in ``template`` of a ``package``, which lies in its folder ``templates`` or beside its modules and may
    extend ``base.html``. In HTML templates all values are escaped; control characters are made visible in any.
    """
    environment = Environment(
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        lstrip_blocks=True,
        finalize=_printable,
        loader=FunctionLoader(partial(_source, package)),
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    written = datetime.now().strftime("%Y-%m-%d %H:%M")
    return environment.get_template(template).render(written=written, **values)


def _source(package: str, name: str) -> str | None:
    """The text of a template: the package's own, else one of the reports'."""
    own, shared = resources.files(package), resources.files("smallvision.reports")
    files = [folder / name for folder in (own / "templates", own, shared / "templates")]
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)


def _printable(value: Any) -> Any:
    """Applied to every value that a template inserts."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@dataclass(frozen=True)
class Part:
    """A part of a page that could be made (``content``, None where there is too little data), or the ``error``."""

    content: Any = None
    error: str | None = None


def attempt(make: Callable[..., Any], *args: Any) -> Part:
    """What ``make(*args)`` gives: one plot that fails does not take the page with it."""
    try:
        return Part(make(*args))
    except Exception as error:  # of matplotlib, scipy or Optuna
        return Part(error=f"{type(error).__name__}: {shorten(str(error), 300)}")


def data_uri(image: np.ndarray[Any, Any]) -> str:
    """A PNG as a ``data:`` address. ``image``: uint8, H x W x C, grey, RGB or RGBA; of others the first channel."""
    pixels = image if image.shape[2] in (3, 4) else image[:, :, 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
