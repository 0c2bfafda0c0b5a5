"""The images in a request, within limits, and a client that sees the answer where it sent more."""

import base64
import binascii
import json
from typing import NamedTuple

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_LATE_BYTES = 256_000_000  # read after the answer


class Upload(NamedTuple):
    name: str
    content: bytes


async def read_uploads(request: Request, max_images: int, max_bytes: int) -> list[Upload]:
    """The files of a form, the images of ``{"images": [base64, ...]}``, or the body itself.

    Raises HTTPException: 400 where there is no image, 413 where there are more than ``max_images``, or more than
    ``max_bytes`` in all.
    """
    body = await _read_body(request, max_bytes)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        uploads = await _from_form(request, max_images)
    elif media_type == "application/json":
        uploads = _from_json(body)
    else:
        uploads = [Upload("body", body)] if body else []
    if not uploads:
        raise HTTPException(400, 'no image: send its bytes, a form with files, or {"images": [base64, ...]}')
    if len(uploads) > max_images:
        raise HTTPException(413, f"{len(uploads)} images; at most {max_images} are allowed in a request")
    return uploads


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The body, which is not read further than ``max_bytes``."""
    too_large = HTTPException(413, f"more than {max_bytes / 1e6:g} MB")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "the body did not arrive whole") from None
    request._body = bytes(body)  # where Starlette keeps it; its parser of forms reads it there
    return request._body


async def _from_form(request: Request, max_images: int) -> list[Upload]:
    try:
        async with request.form(max_files=max_images, max_fields=max_images) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            return [Upload(file.filename or "file", await file.read()) for file in files]
    except Exception as error:  # of Starlette and of the parser beneath it
        detail = str(getattr(error, "detail", error))
        raise HTTPException(413 if "Too many" in detail else 400, f"not a form: {detail[:200]}") from None


def _from_json(body: bytes) -> list[Upload]:
    try:
        content = json.loads(body)
        images = content["images"] if "images" in content else [content["image"]]
        return [Upload(f"image {number}", _decode(image)) for number, image in enumerate(images, start=1)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise HTTPException(400, 'not of the form {"images": [base64, ...]}') from None


def _decode(text: str) -> bytes:
    """Base64, also as a browser has it: ``data:image/png;base64,...``."""
    head, comma, rest = text.partition(",")
    return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)


class LingeringClose:
    """ASGI middleware that sends the answer at once, and then reads and drops the rest of the request.

    A connection that is closed with bytes unread is reset, and clients that send their whole body before they
    read the answer (urllib, requests) would see no more than that. Reading is bounded by ``MAX_LATE_BYTES`` and
    ``serve.body_timeout``; nothing is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        await self.app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer. ``received``: whether all of the request's body has arrived."""

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
        await self._drop()
        await self._send({"type": "http.response.body"})

    async def _drop(self) -> None:
        dropped = 0
        while not self.received and dropped < MAX_LATE_BYTES:
            dropped += len((await self.receive()).get("body", b""))
