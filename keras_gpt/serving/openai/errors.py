"""The errors of the OpenAI-style API: their status, their body, and what pydantic says in their words."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
_MAX_MESSAGE = 1000  # characters; an error may quote a request of megabytes


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: the HTTP status.
        message: for a person.
        param: the argument that it is about.
        code: for a program.
        headers: of the response.

    Example:
        >>> ApiError(404, "there is no such model", param="model", code="model_not_found")
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "..."
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Give the error as OpenAI's API writes it."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """Give the whole response."""
        return json_response(self.body(), self.status, self.headers)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Give a response of JSON."""
    return Response(json_bytes(value), status, headers, media_type="application/json")


def json_bytes(value: Any) -> bytes:
    """Give a value as JSON on one line."""
    # "replace" is for half a surrogate pair, which an error may quote from the request.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")


def unavailable(message: str, code: str) -> ApiError:
    """Give the error of a server that does not answer now."""
    return ApiError(503, message, code=code, headers={"retry-after": "1"})


def shutting_down() -> ApiError:
    """Give the error of a server that is about to end."""
    return unavailable("the server is shutting down: ask another one", "shutting_down")


def queue_full() -> ApiError:
    """Give the error of a server that too many requests wait for."""
    return ApiError(
        429,
        "too many requests wait: try again later",
        code="queue_full",
        headers={"retry-after": "1"},
    )


def of_argument(error: Exception) -> ApiError:
    """Give the error of an argument that the engine refuses; its messages begin with the name."""
    name = str(error).partition(" ")[0].partition("[")[0]
    param = name if name.isidentifier() else None
    return ApiError(400, str(error), param=param, code="invalid_value")


def of_validation(error: ValidationError, not_supported: frozenset[str]) -> ApiError:
    """Give what is wrong with a body in this API's words.

    Args:
        error: of pydantic.
        not_supported: names that OpenAI's API has and this one does not.
    """
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    where = [part for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)[1:]
    kind = first["type"]
    if kind == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return ApiError(400, f"the body must be one JSON object: {reason}", code="invalid_json")
    if kind == "model_type":
        return ApiError(400, "the body must be one JSON object", code="invalid_json")
    if kind == "extra_forbidden":
        name = str(first["loc"][-1])
        if name in not_supported:
            return ApiError(
                400,
                f"{name} is not supported by this server",
                param=name,
                code="unsupported_parameter",
            )
        return ApiError(400, f"there is no argument {param}", param=param, code="unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"{param} is missing", param=param, code="missing_parameter")
    # An argument of several kinds has an error for each.
    same = [each for each in found if each["loc"][:1] == first["loc"][:1]]
    reasons = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in same)
    if len(reasons) > 1:
        param = str(where[0])
    message = "; or ".join(reasons)
    if not param:  # it is about several arguments
        return ApiError(400, message, code="invalid_value")
    return ApiError(400, f"{param}: {message}", param=param, code="invalid_value")
