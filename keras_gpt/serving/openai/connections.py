"""Connections that end where a client stands still: in a request, or while its answer waits."""

import asyncio
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
        self._receiving: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

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
        self._sending = _without(self._sending)
        self._look_again(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Wait no more: the client has read."""
        super().resume_writing()
        self._sending = _without(self._sending)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._receiving, self._sending = _without(self._receiving), _without(self._sending)
        super().connection_lost(exc)

    def _look_again(self, num_bytes: int) -> None:
        """Wait until the client has read on, however little, of what it is sent."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < num_bytes:
                self._look_again(left)
            else:
                self.transport.abort()

        self._sending = self.loop.call_later(self._seconds, look)

    def _watch(self) -> None:
        """Wait for the rest of a request; bytes that leave its state as it is win no time."""
        state = self.conn.their_state
        if state is self._state or self.transport.is_closing():
            return
        self._state = state
        self._receiving = _without(self._receiving)
        if state in (h11.IDLE, h11.SEND_BODY):
            grace = _GRACE_SECONDS if state is h11.SEND_BODY else 0
            self._receiving = self.loop.call_later(self._seconds + grace, self.transport.abort)


def _without(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
