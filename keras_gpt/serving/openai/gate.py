"""What every request to the API passes: it is counted, logged, and answered whatever happens."""

import traceback
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.records import Log, Record
from keras_gpt.serving.openai.service import Service

_CLIENT_GONE = 499  # for the log alone, as nginx has it
_HEALTH = "/health/"


class Gate:
    """Middleware around the application.

    Args:
        app: answers.
        service: knows whether requests are taken.
        log: gets a line for each request but those for the server's health.
    """

    def __init__(self, app: ASGIApp, service: Service, log: Log) -> None:
        self._app = app
        self._service = service
        self._log = log

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
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = _CLIENT_GONE
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
            if not scope["path"].startswith(_HEALTH):
                self._log.write("request", **record.fields(status or _CLIENT_GONE))

    def _log_error(self, record: Record, text: str) -> None:
        self._log.write("error", request_id=record.id, traceback=text)
