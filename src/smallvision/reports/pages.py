"""Pages that need nothing but themselves: no script, no font, no request."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from smallvision.core.errors import printable
from smallvision.reports.words import counted, duration, figure, listed, percent, short, spread


class NoPicture(Exception):
    """There is not enough to draw or to say something; the message is the sentence to show instead."""


def render(template: str, package: str = "smallvision.reports", **values: Any) -> str:
    """The filled-in ``template`` of a ``package``, which lies in its folder ``templates`` or beside its modules and may
    extend ``base.html``. In HTML templates all values are escaped; control characters are shown in any.
    """
    environment = Environment(
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        lstrip_blocks=True,
        finalize=_printable,
        loader=FunctionLoader(partial(_source, package)),
    )
    environment.filters |= {one.__name__: one for one in (figure, percent, spread, duration, short, counted, listed)}
    written = datetime.now().strftime("%Y-%m-%d %H:%M")
    style = Markup(_source("smallvision.reports", "page.css"))
    return environment.get_template(template).render(style=style, written=written, **values)


def _source(package: str, name: str) -> str | None:
    """The text of a template: the package's own, else one of the reports'."""
    own, shared = resources.files(package), resources.files("smallvision.reports")
    files = [folder / name for folder in (own / "templates", own, shared / "templates")]
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)


def drawn(draw: Callable[[], Any]) -> dict[str, Any]:
    """``made``: what ``draw`` gives, or None and ``why``: one picture that fails does not take the page."""
    try:
        return {"made": draw(), "why": None}
    except NoPicture as reason:
        return {"made": None, "why": str(reason)}
    except Exception as error:  # of libraries, which name no better one
        said = short(str(error), 300)
        return {"made": None, "why": f"This could not be drawn ({type(error).__name__}: {said})."}


def _printable(value: Any) -> Any:
    """Of everything that the template inserts."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
