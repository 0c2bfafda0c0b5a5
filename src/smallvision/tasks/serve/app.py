"""The routes: a page to draw on, and ``POST /predict``."""

import asyncio
import contextlib
from importlib import resources
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


LINGER_BYTES, LINGER_SECONDS = 256_000_000, 30.0


class LingeringClose:
    """ASGI middleware that answers at once, and then reads and drops what the client still sends.

    A connection that is closed with bytes unread is reset, and a client that sends all of its body before it
    reads (urllib, requests) sees the reset and not the answer. At most ``LINGER_BYTES`` are read, for at most
    ``LINGER_SECONDS``; nothing is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        await self.app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer. ``received``: whether all of the request's body has come."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send, self.received = receive, send, False

    async def receive(self) -> Message:
        message = await self._receive()
        self.received = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not last or self.received:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(), LINGER_SECONDS)
        await self._send({"type": "http.response.body"})

    async def _drop(self) -> None:
        dropped = 0
        while not self.received and dropped < LINGER_BYTES:
            dropped += len((await self.receive()).get("body", b""))


def make_app(answers: Answers, host: str, most: int, most_bytes: int) -> Starlette:
    """``most``: pictures in a request; ``most_bytes``: of its body.

    On a loopback ``host`` it answers to that name alone, and never to another site's page: a browser that
    was led here by a name of theirs is turned away.
    """
    page = render(
        "draw.html",
        package="smallvision.tasks.serve",
        about=answers.about(),
        draws=answers.spec.dataset in LIGHT_ON_DARK,
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
        middleware=[
            Middleware(LingeringClose),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
    )


def _same_site(request: Request) -> bool:
    """Whether no browser says that another site's page asks."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
