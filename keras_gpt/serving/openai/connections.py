"""Connections that end where a client stands still: in a request, or while its answer waits."""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# After the head of a request the application says what is late, as a response; it comes first.
_GRACE_SECONDS = 5


class Connection(H11Protocol):
    """One connection.

    uvicorn itself ends those alone that are idle after a response.

    Args:
        *args: uvicorn's.
        seconds: how long a client may take to send the head of a request, to send its body, and to
            read on where more is sent than it reads.
        **options: uvicorn's.
    """

    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds
        self._state: Any = None  # what of a request is waited for
        self._receiving = _Timer(self.loop)
        self._sending = _Timer(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what a client sends."""
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Wait no more: the client has read."""
        super().resume_writing()
        self._sending.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._receiving.stop()
        self._sending.stop()
        super().connection_lost(exc)

    def _look_again(self, num_bytes: int) -> None:
        """Wait until the client has read on, however little, of what it is sent."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < num_bytes:
                self._look_again(left)
            else:
                self.transport.abort()

        self._sending.start(self._seconds, look)

    def _watch(self) -> None:
        """Wait for the rest of a request; bytes that leave its state as it is win no time."""
        state = self.conn.their_state
        if state is self._state or self.transport.is_closing():
            return
        self._state = state
        self._receiving.stop()
        if state in (h11.IDLE, h11.SEND_BODY):
            grace = _GRACE_SECONDS if state is h11.SEND_BODY else 0
            self._receiving.start(self._seconds + grace, self.transport.abort)


class _Timer:
    """Calls something once, unless it is stopped or started again before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, call: Callable[[], None]) -> None:
        self.stop()
        self._handle = self._loop.call_later(seconds, call)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
