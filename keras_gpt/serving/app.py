"""The REST API of TensorFlow Serving, as a FastAPI application.

Source: the public description of TensorFlow Serving's RESTful API.
"""

import json
import logging
import os
import re
import urllib.parse
from typing import Any

try:
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise ImportError(
        "serving needs fastapi and uvicorn: pip install 'keras-gpt[serve]'"
    ) from error

from keras_gpt.serving.bodies import read_body
from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.json_text import parse_object
from keras_gpt.serving.store import ModelStore

_log = logging.getLogger("keras_gpt.serving")

DEFAULT_MAX_REQUEST_BYTES = 32 * 2**20

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_READ = re.compile(_MODEL + r"(?P<metadata>/metadata)?")
_CALL = re.compile(_MODEL + r":(?P<verb>predict|classify|regress)")
_ALL_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


def create_app(
    folder: str | os.PathLike[str], max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
) -> FastAPI:
    """Load the models of a folder and make the application that answers for them.

    Args:
        folder: holds NAME/VERSION/saved_model.pb. The latest version of each model is served.
        max_request_bytes: a request body beyond this many bytes gets status 413.

    Returns:
        The application. `app.state.store` is its `ModelStore`.

    Raises:
        ImportError: FastAPI is missing.
        FileNotFoundError: there is no such folder, or no model is in it.
        RuntimeError: there are models, and none can be loaded.
        ValueError: `max_request_bytes` is not positive.

    Example:
        >>> app = create_app("saved_models")  # for any ASGI server, or inside another application
    """
    if max_request_bytes < 1:
        raise ValueError(
            f"max_request_bytes must be positive. Received: max_request_bytes={max_request_bytes}"
        )
    store = ModelStore(folder)
    app = FastAPI(title="keras_gpt models", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store = store

    # The API's URLs are a small language of their own ("NAME:predict"), and an unknown one has a
    # defined answer too. So one route takes them all.
    @app.api_route("/v1/{path:path}", methods=_ALL_METHODS, include_in_schema=False)
    async def answer(request: Request) -> Response:
        path = request.scope["raw_path"].split(b"?")[0].decode("latin-1")
        try:
            if request.method == "GET":
                return _json(_read(store, path), indent=1)
            call = _CALL.fullmatch(path) if request.method == "POST" else None
            if call is None:
                raise ServingError(f"Malformed request: {request.method} {path}")
            body = await read_body(request, max_request_bytes)
            if body is None:
                return _error(f"The request is longer than {max_request_bytes} bytes", 413)
            # Off the event loop: a long generation must not keep others from being answered.
            return await run_in_threadpool(_call, store, call, body)
        except ServingError as error:
            return _error(error.message, error.http_status)

    @app.exception_handler(HTTPException)
    async def not_ours(request: Request, error: HTTPException) -> Response:
        return _error(f"{error.detail}: {request.method} {request.url.path}", error.status_code)

    return app


def _read(store: ModelStore, path: str) -> dict[str, Any]:
    """The answer to a status or metadata request."""
    if path == "/v1/models":
        raise ServingError("Missing model name in request.")
    match = _READ.fullmatch(path)
    if match is None:
        raise ServingError(f"Malformed request: GET {path}")
    name, version = _target(match)
    if match["metadata"]:
        return store.lookup(name, version).metadata()
    return {
        "model_version_status": [
            {
                "version": str(number),
                "state": state.state,
                "status": {
                    "error_code": state.error_code,
                    "error_message": state.error_message,
                },
            }
            for number, state in store.states(name, version).items()
        ]
    }


def _call(store: ModelStore, match: re.Match[str], body: bytes) -> Response:
    """Answer a predict, classify or regress request. Runs on a worker thread."""
    try:
        document = parse_object(body)
        servable = store.lookup(*_target(match))
        run = {
            "predict": servable.predict,
            "classify": servable.classify,
            "regress": servable.regress,
        }[match["verb"]]
        return _json(run(document))
    except ServingError:
        raise
    except Exception as error:
        # The server must outlive whatever one request meets; the log keeps the whole story.
        _log.exception("%s failed", match[0])
        raise ServingError(f"{type(error).__name__}: {error}", "INTERNAL") from error


def _target(match: re.Match[str]) -> tuple[str, int | None]:
    """The model and version that a path names."""
    if match["label"] is not None:
        label = urllib.parse.unquote(match["label"])
        raise ServingError(f"Unrecognized servable version label: {label}")
    if match["version"] is None:
        return urllib.parse.unquote(match["name"]), None
    # Versions are 64 bit numbers; a longer row of digits may be too long for int() as well.
    digits = match["version"].lstrip("0") or "0"
    if len(digits) > 19 or int(digits) >= 2**63:
        raise ServingError(f"Failed to convert version: {match['version']} to numeric.")
    return urllib.parse.unquote(match["name"]), int(digits)


def _json(value: Any, indent: int | None = None, status: int = 200) -> Response:
    # NaN and Infinity stay as they are: TensorFlow Serving writes them so too.
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # "replace" is for half a surrogate pair, which an error may quote from the request.
    return Response(text.encode(errors="replace"), status, media_type="application/json")


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status=status)
