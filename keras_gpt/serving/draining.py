"""A server that ends without losing an answer."""

import os
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

try:
    import uvicorn
    from starlette.concurrency import run_in_threadpool
except ImportError as error:
    raise ImportError(
        "serving needs fastapi and uvicorn: pip install 'keras-gpt[serve]'"
    ) from error

LAST_SECONDS = 2  # for connections that are still open after the last answer


class DrainingServer(uvicorn.Server):
    """A server that on a signal answers what it has begun, refuses the rest, and ends.

    Args:
        app: the ASGI application.
        refuse: is called once, when the signal comes: from then on the application refuses.
        in_flight: gives how many requests are being answered.
        seconds: how long to wait for answers. A second signal ends at once.
        cut_off: is called, on a thread, when that was too short.
        options: other arguments of `uvicorn.Config`.
    """

    def __init__(
        self,
        app: Any,
        refuse: Callable[[], None],
        in_flight: Callable[[], int],
        seconds: float,
        cut_off: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=LAST_SECONDS,
                **options,
            )
        )
        self._refuse = refuse
        self._in_flight = in_flight
        self._seconds = seconds
        self._cut_off = cut_off
        self._end: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second signal ends at once."""
        if self._end is not None:
            self.should_exit = self.force_exit = True
            return
        self._end = time.monotonic() + self._seconds
        self._refuse()

    async def on_tick(self, counter: int) -> bool:
        """Say, ten times a second, whether the end has come."""
        if self._end is not None:
            is_late = time.monotonic() > self._end
            if is_late:
                await run_in_threadpool(self._cut_off)
            if is_late or self._in_flight() == 0:
                self.should_exit = True
        return bool(await super().on_tick(counter))


def exit_at_once(code: int) -> NoReturn:
    """End the process though threads are busy, which Python would wait for.

    Args:
        code: the exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
