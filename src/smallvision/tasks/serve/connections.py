"""Connections within limits: whoever opens many, or sends slowly, keeps nobody else waiting."""

import asyncio
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from smallvision.config.schema import Serve

TIMEOUT_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    b'{"error":"the request did not arrive whole"}'
)


class BoundedConnection(H11Protocol):
    """uvicorn's connection with what uvicorn has no setting for: time-outs of a request's headers and of its body,
    and a bound on connections at which the one nearest to its time-out gives way to a new one.

    (uvicorn's ``limit_concurrency`` refuses the new one, so that idle connections would shut everybody out.)
    """

    def __init__(self, limits: Serve, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limits = limits
        self.timeout: asyncio.TimerHandle | None = None  # while a request is awaited or arrives
        self._phase: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.handle_events()
        if len(self.connections) > self.limits.max_connections:
            every = cast("set[BoundedConnection]", self.connections)
            waiting = {one.timeout: one for one in every if one.timeout}
            waiting[min(waiting)].drop()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout:
            self.timeout.cancel()

    def handle_events(self) -> None:
        """And set the time-out of what the client is to send next; while it waits for the answer there is none."""
        super().handle_events()
        phase = self.conn.their_state, self.cycle
        if phase != self._phase:
            if self.timeout:
                self.timeout.cancel()
            limits = {h11.IDLE: self.limits.header_timeout, h11.SEND_BODY: self.limits.body_timeout}
            seconds = limits.get(self.conn.their_state)
            self.timeout = self.loop.call_later(seconds, self.drop) if seconds else None
            self._phase = phase

    def drop(self) -> None:
        """Close at once, with status 408 where a request has begun and no answer has."""
        if self.conn.our_state is h11.SEND_RESPONSE:
            self.transport.write(TIMEOUT_ANSWER)
        self.transport.abort()
        self.connections.discard(self)  # now, so that the next one to come does not count it

    def shutdown(self) -> None:
        """At the server's end only requests that have arrived are still answered."""
        self.drop() if self.timeout else super().shutdown()
