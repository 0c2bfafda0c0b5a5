"""A client that still sends its body sees the answer, and not a reset connection."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES, MAX_SECONDS = 256_000_000, 30.0  # read after the answer


class LingeringClose:
    """ASGI middleware that sends the answer at once, and then reads and drops the rest of the request.

    A connection that is closed with bytes unread is reset, and clients that send their whole body before they
    read the answer (urllib, requests) would see no more than that. Reading is bounded by ``MAX_BYTES`` and
    ``MAX_SECONDS``; nothing is kept.
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
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(), MAX_SECONDS)
        await self._send({"type": "http.response.body"})

    async def _drop(self) -> None:
        dropped = 0
        while not self.received and dropped < MAX_BYTES:
            dropped += len((await self.receive()).get("body", b""))
