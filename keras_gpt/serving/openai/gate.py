"""What every request to the API passes: it is counted, logged, and answered whatever happens."""

import traceback
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from keras_gpt.serving.openai.errors import ApiError, queue_full
from keras_gpt.serving.openai.metrics import Metrics
from keras_gpt.serving.openai.records import CLIENT_GONE, Log, Record
from keras_gpt.serving.openai.service import Service

_UNLOGGED = {"/health/live", "/health/ready", "/metrics"}  # machines ask for these all the time
# How many requests are read besides those that the engine's places and queue can hold: a body is
# in memory before it is known what it asks for.
_MORE = 32


class Gate:
    """Middleware around the application.

    Args:
        app: answers.
        service: knows whether requests are taken.
        log: gets a line for each request but those for the server's health and metrics.
        metrics: counts each.
    """

    def __init__(self, app: ASGIApp, service: Service, log: Log, metrics: Metrics) -> None:
        self._app = app
        self._service = service
        self._log = log
        self._metrics = metrics
        self._most = service.limits.max_batch + service.limits.max_waiting + _MORE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else ""
        record = Record(scope["method"], scope["path"], address)
        scope.setdefault("state", {})["record"] = record
        status: int | None = None

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = record.headers()
                if self._service.is_draining:
                    more["connection"] = "close"
                pairs = [(name.encode(), value.encode()) for name, value in more.items()]
                message = {**message, "headers": [*message["headers"], *pairs]}
            await send(message)

        self._service.in_flight += 1
        try:
            if scope["method"] == "POST" and self._service.in_flight > self._most:
                record.error = queue_full()
                await record.error.response()(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:  # the server must outlive whatever one request meets
            self._log_error(record, traceback.format_exc())
            if status is None:
                error = ApiError(500, "the server made a mistake; its log says which")
                await error.response()(scope, receive, watched)
        finally:
            record.end()
            self._service.in_flight -= 1
            if record.error is not None and record.error.status == 500:
                self._log_error(record, "".join(traceback.format_exception(record.error)))
            status = status or CLIENT_GONE
            self._metrics.count(record, getattr(scope.get("route"), "path", "other"), status)
            if scope["path"] not in _UNLOGGED:
                self._log.write("request", **record.fields(status))

    def _log_error(self, record: Record, text: str) -> None:
        self._log.write("error", request_id=record.id, traceback=text)
