"""Pages that need nothing but themselves: no script, no font, no request."""

from collections.abc import Callable
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from smallvision.core.errors import printable
from smallvision.reports.words import counted, duration, figure, listed, percent, short, spread


class NoPicture(Exception):
    """There is not enough to draw or to say something; the message is the sentence to show instead."""


def render(template: str, package: str = "smallvision.reports", **values: Any) -> str:
    """The page of a ``package``'s template; what is in it of files and command lines is shown, not obeyed."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
        finalize=_printable,
        loader=FunctionLoader(lambda name: _packaged(name, package)),
    )
    made.filters |= {one.__name__: one for one in (figure, percent, spread, duration, short, counted, listed)}
    written = datetime.now().strftime("%Y-%m-%d %H:%M")
    return made.get_template(template).render(style=Markup(_packaged("page.css")), written=written, **values)


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


def _packaged(name: str, package: str = "smallvision.reports") -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
