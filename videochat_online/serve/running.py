"""A server that cuts whoever does not read or finish a request's head, and ends gracefully. uvicorn does the rest."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .limits import Overloaded
from .sessions import Sessions

HEAD_SECONDS = 10.0
"""Until the head of a request is whole, from the connection or from its first byte on."""
UNREAD_SECONDS = 20.0
"""A client that takes nothing of what waits for it for so long is cut."""
LAST_SECONDS = 3
"""For responses that are no answers, when the server is being stopped."""
LOOK_SECONDS = 0.05


class _CutsUnread(asyncio.Protocol):
    """Ends a connection whose other side has taken nothing for UNREAD_SECONDS, whatever still stands in its buffer."""

    transport: Any
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that we hear of the first byte that is not taken

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()
        super().connection_lost(error)

    def _forget(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class PatientSocket(_CutsUnread, WebSocketsSansIOProtocol):
    """A realtime connection."""

    def shutdown(self) -> None:
        """One that is not let in yet ends with its refusal: uvicorn would tell it of a fault of ours."""
        if self.handshake_complete:
            super().shutdown()


class PatientHttp(_CutsUnread, H11Protocol):
    """A connection of HTTP; the heads of its requests have a deadline."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._head is None:  # the beginning of another head
            self._expect()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop()
        super().connection_lost(error)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._stop()
        super().handle_websocket_upgrade(event)

    def _expect(self) -> None:
        self._head = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Server(uvicorn.Server):
    """Says `ready` as soon as the first request would be answered; when it is to end, answers may go on for a while."""

    def __init__(self, app: Any, sessions: Sessions, *, ready: str | None = None, **options: Any) -> None:
        fixed: dict[str, Any] = {"http": PatientHttp, "ws": PatientSocket, "access_log": False, "log_config": None}
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=LAST_SECONDS, **fixed, **options))
        self.sessions, self.ready = sessions, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready is not None:
            print(self.ready, file=sys.stderr, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        sessions, loop = self.sessions, asyncio.get_running_loop()
        # 1. nothing new begins, and /ready says so; what is being answered has some time
        sessions.turns.is_closed = True
        until = loop.time() + sessions.limits.shutdown_seconds
        while (sessions.turns.num_entered or sessions.running) and loop.time() < until and not self.force_exit:
            await asyncio.sleep(LOOK_SECONDS)
        # 2. event streams end with an error, sockets with 1001: clients of both come again; refusals are told at once
        for queue in (sessions.turns, sessions.reading):
            queue.is_closed = True
            queue.empty()
        for answer in list(sessions.running):
            answer.leave(Overloaded("the server is being stopped"))
        for moment in list(sessions.moments):
            moment.cancel()
        closing = [loop.create_task(client.close(1001, "the server is being stopped")) for client in sessions.sockets]
        if closing:  # some may not read
            await asyncio.wait(closing, timeout=1)
        await super().shutdown(sockets)
