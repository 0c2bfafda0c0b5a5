"""A client sees why its upload is refused, whatever it is and however it sends."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from helpers.server import post, serving
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from smallvision.tasks.serve import uploads
from smallvision.tasks.serve.app import error_response
from smallvision.tasks.serve.uploads import LingeringClose, read_uploads

LARGE = 2_000_000  # bytes: more than the buffers of a socket hold, and four times what is allowed
REFUSED = {"error": "more than 0.5 MB"}


async def count(request: Request) -> JSONResponse:
    return JSONResponse(len(await read_uploads(request, 3, 500_000)))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = Starlette(
        routes=[Route("/predict", count, methods=["POST"])],
        middleware=[Middleware(LingeringClose)],
        exception_handlers={HTTPException: error_response},
    )
    with serving(app) as address:
        yield address


def chunks(pause: float = 0.0) -> Iterator[bytes]:
    for _ in range(20):
        time.sleep(pause)
        yield b"x" * (LARGE // 20)


@pytest.mark.parametrize("pause", [0.0, 0.02])
@pytest.mark.parametrize("header", [{"Content-Length": str(LARGE)}, {"Transfer-Encoding": "chunked"}])
def test_urllib_sees_that_its_body_is_too_large(address, header, pause):
    assert post(address, chunks(pause), **header) == (413, REFUSED)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
def test_a_client_that_keeps_its_connection_sees_that_its_body_is_too_large(address, headers, chunked):
    """As requests sends it, by http.client: all of the body before it reads the answer, on a connection to be kept."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    with closing(connection):
        connection.request(
            "POST", "/predict", chunks(0.02) if chunked else b"x" * LARGE, headers, encode_chunked=chunked
        )
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)) == (413, REFUSED)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    "header", ["Expect: 100-continue", "Expect:", "Transfer-Encoding: chunked", "Connection: close"]
)
def test_curl_sees_that_its_body_is_too_large(address, tmp_path, header):
    (tmp_path / "large").write_bytes(b"x" * LARGE)
    process = subprocess.run(
        ["curl", "-sS", "-H", header, "--limit-rate", "20M", "--data-binary", "@large", f"{address}/predict"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (process.stdout, process.stderr) == ('{"error":"more than 0.5 MB"}', "")


def test_a_refusal_before_the_body_was_read_is_seen_as_well(address):
    assert post(f"{address}/nowhere", b"x" * LARGE) == (404, {"error": "Not Found"})


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({}, 413)(scope, receive, send)


def test_what_is_read_after_the_answer_is_bounded(monkeypatch):
    """In bytes; in time it is bounded as every body is, see test_a_request_that_does_not_arrive_is_closed."""
    monkeypatch.setattr(uploads, "MAX_LATE_BYTES", 1000)
    read, sent = [], []

    async def receive() -> dict[str, Any]:
        assert sent[-1]["body"] == b"{}"  # the answer comes first
        read.append(b"x" * 100)
        return {"type": "http.request", "body": read[-1], "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(LingeringClose(refuse)({"type": "http"}, receive, send))
    assert sum(map(len, read)) == 1000
    assert [message.get("more_body", False) for message in sent] == [False, True, False]
