"""The routes: a page to draw on, and ``POST /predict``."""

from importlib import resources
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smallvision.data.preprocess import LIGHT_ON_DARK
from smallvision.reports.pages import render
from smallvision.tasks.serve.answers import Answers
from smallvision.tasks.serve.requests import Bad, pictures_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(answers: Answers, host: str, most: int, most_bytes: int) -> Starlette:
    """``most``: pictures in a request; ``most_bytes``: of its body.

    On a loopback ``host`` it answers to that name alone, and never to another site's page: a browser that
    was led here by a name of theirs is turned away.
    """
    page = render(
        "draw.html",
        package="smallvision.tasks.serve",
        about=answers.about(),
        draws=answers.wanted.data in LIGHT_ON_DARK,
        most=most,
    )
    script = resources.files("smallvision.tasks.serve").joinpath("draw.js").read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    async def code(request: Request) -> Response:
        return Response(script, media_type="text/javascript", headers=HEADERS)

    async def about(request: Request) -> Response:
        return JSONResponse(answers.about(), headers=HEADERS)

    async def predict(request: Request) -> Response:
        try:
            if not _same_site(request):
                raise Bad(403, "not from another site's page")
            pictures = await pictures_of(request, most, most_bytes)
        except Bad as bad:
            return JSONResponse({"error": str(bad)}, bad.status, headers=HEADERS)
        said = await run_in_threadpool(answers.of, pictures)
        good = any("class" in one for one in said["predictions"])
        return JSONResponse(said, 200 if good else 422, headers=HEADERS)

    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    return Starlette(
        routes=[
            Route("/", show),
            Route("/draw.js", code),
            Route("/about", about),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
    )


def _same_site(request: Request) -> bool:
    """Whether no browser says that another site's page asks."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
