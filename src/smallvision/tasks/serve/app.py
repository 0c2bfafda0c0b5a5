"""The addresses that the server answers: a page to draw on, and ``POST /predict``."""

from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smallvision.data.preprocess import LIGHT_ON_DARK
from smallvision.reports.pages import render
from smallvision.tasks.serve.linger import LingeringClose
from smallvision.tasks.serve.service import HEADERS, PredictService

PACKAGE = "smallvision.tasks.serve"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_app(service: PredictService, host: str) -> Starlette:
    """On a loopback ``host`` the app answers to that name alone: a page of another site that leads a browser here
    by a name of its own is refused.
    """
    page = render(
        "draw.html",
        package=PACKAGE,
        about=service.description,
        can_draw=service.spec.dataset in LIGHT_ON_DARK,
        max_images=service.max_images,
    )
    script = resources.files(PACKAGE).joinpath("templates/draw.js").read_text(encoding="utf-8")
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    return Starlette(
        routes=[
            Route("/", HTMLResponse(page, headers=HEADERS), methods=["GET"]),
            Route("/draw.js", Response(script, media_type="text/javascript", headers=HEADERS), methods=["GET"]),
            Route("/about", JSONResponse(service.description, headers=HEADERS), methods=["GET"]),
            Route("/predict", service.respond, methods=["POST"]),
        ],
        middleware=[
            Middleware(LingeringClose),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
        exception_handlers={HTTPException: error_response},
    )


async def error_response(request: Request, error: Exception) -> Response:
    """``{"error": "one line"}``."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=HEADERS)
