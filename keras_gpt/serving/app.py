"""The REST API of TensorFlow Serving, as a FastAPI application.

Source: the public description of TensorFlow Serving's RESTful API.
"""

import contextlib
import json
import logging
import os
import re
import threading
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

try:
    from fastapi import FastAPI, Request, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise ImportError(
        "serving needs fastapi and uvicorn: pip install 'keras-gpt[serve]'"
    ) from error

from keras_gpt.serving.admission import DEFAULT_MAX_WAITING, Admission
from keras_gpt.serving.bodies import read_body
from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.json_text import parse_object
from keras_gpt.serving.metrics import Metrics
from keras_gpt.serving.store import ModelStore
from keras_gpt.serving.versions import MAX_VERSION

_log = logging.getLogger("keras_gpt.serving")

DEFAULT_MAX_REQUEST_BYTES = 32 * 2**20
DEFAULT_POLL_SECONDS = 1.0
METRICS_PATH = "/monitoring/prometheus/metrics"

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_READ = re.compile(_MODEL + r"(?P<metadata>/metadata)?")
_CALL = re.compile(_MODEL + r":(?P<verb>predict|classify|regress)")
_ALL_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


def create_app(
    folder: str | os.PathLike[str],
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    *,
    config: str | os.PathLike[str] | None = None,
    max_waiting: int = DEFAULT_MAX_WAITING,
    poll_seconds: float = DEFAULT_POLL_SECONDS,
    warmup: bool = True,
) -> FastAPI:
    """Load the models of a folder and make the application that answers for them.

    While the application runs it loads new versions that appear in the folder, and unloads the
    ones that these replace when no request uses them any more.

    Args:
        folder: holds NAME/VERSION/saved_model.pb. The latest version of each model is served.
        max_request_bytes: a request body beyond this many bytes gets status 413.
        config: a file in TensorFlow Serving's form that says which models and versions are
            served, in place of all that is in the folder.
        max_waiting: how many requests wait for a thread; more get status 429.
        poll_seconds: from one look at the folders to the next; 0 looks once.
        warmup: whether a version answers the warm-up requests that lie in its folder
            (`assets.extra/tf_serving_warmup_requests`) before it is served.

    Returns:
        The application. `app.state` has its `store` (ModelStore), `metrics` and `admission`.

    Raises:
        ImportError: FastAPI, or another package of the extra `serve`, is missing.
        FileNotFoundError: there is no such folder or file, or no model is in it.
        RuntimeError: there are models, and none can be loaded.
        ValueError: `config` is no configuration, or a number is out of range.

    Example:
        >>> app = create_app("saved_models")  # for any ASGI server
    """
    if max_request_bytes < 1:
        raise ValueError(
            f"max_request_bytes must be positive. Received: max_request_bytes={max_request_bytes}"
        )
    if not 0 <= poll_seconds <= threading.TIMEOUT_MAX:
        raise ValueError(f"poll_seconds must not be negative. Received: {poll_seconds=}")
    metrics = Metrics(lambda name: store.has(name))
    admission = Admission(max_waiting=max_waiting, on_refused=metrics.refused)
    metrics.in_flight(lambda: admission.in_flight)
    store = ModelStore(folder, config, metrics.loaded, warmup)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if poll_seconds:
            store.watch(poll_seconds)
        yield
        store.close()

    app = FastAPI(
        title="keras_gpt models",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
    )
    app.state.store, app.state.metrics, app.state.admission = store, metrics, admission

    @app.get(METRICS_PATH, include_in_schema=False)
    async def counted() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    # The API's URLs are a small language of their own ("NAME:predict"), and an unknown one has a
    # defined answer too. So one route takes them all.
    @app.api_route("/v1/{path:path}", methods=_ALL_METHODS, include_in_schema=False)
    async def answer(request: Request) -> Response:
        path = request.scope["raw_path"].split(b"?")[0].decode("latin-1")
        try:
            admission.check()
            if request.method == "GET":
                return _json(_read(store, path), indent=1)
            call = _CALL.fullmatch(path) if request.method == "POST" else None
            if call is None:
                raise ServingError(f"Malformed request: {request.method} {path}")
            body = await read_body(request, max_request_bytes)
            if body is None:
                return _error(f"The request is longer than {max_request_bytes} bytes", 413)
            # Off the event loop: a long generation must not keep others from being answered.
            return await admission.run(_call, store, metrics, call, body)
        except ServingError as error:
            return _error(error.message, error.http_status)
        except ClientDisconnect:  # while it sent its request: nobody reads this
            return _error("The client has gone", 499)

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
    name, version, label = _target(match)
    if match["metadata"]:
        return store.lookup(name, version, label).metadata()
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
            for number, state in store.states(name, version, label).items()
        ]
    }


def _call(store: ModelStore, metrics: Metrics, match: re.Match[str], body: bytes) -> Response:
    """Answer a predict, classify or regress request. Runs on a thread of its own."""
    name = urllib.parse.unquote(match["name"])
    try:
        with metrics.request(name, match["verb"], "REST"):
            document = parse_object(body)
            servable = store.lookup(*_target(match))
            run = {
                "predict": servable.predict,
                "classify": servable.classify,
                "regress": servable.regress,
            }[match["verb"]]
            answer = run(document)
    except ServingError:
        raise
    except Exception as error:
        # The server must outlive whatever one request meets; the log keeps the whole story.
        _log.exception("%s failed", match[0])
        raise ServingError(f"{type(error).__name__}: {error}", "INTERNAL") from error
    if match["verb"] != "predict":
        metrics.examples(name, len(document["examples"]))
    return _json(answer)


def _target(match: re.Match[str]) -> tuple[str, int | None, str | None]:
    """The model, and the version or the label, that a path names."""
    name = urllib.parse.unquote(match["name"])
    if match["label"] is not None:
        return name, None, urllib.parse.unquote(match["label"])
    if match["version"] is None:
        return name, None, None
    # Versions are 64 bit numbers; a longer row of digits may be too long for int() as well.
    digits = match["version"].lstrip("0") or "0"
    if len(digits) > 19 or int(digits) > MAX_VERSION:
        raise ServingError(f"Failed to convert version: {match['version']} to numeric.")
    return name, int(digits), None


def _json(value: Any, indent: int | None = None, status: int = 200) -> Response:
    # NaN and Infinity stay as they are: TensorFlow Serving writes them so too.
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # "replace" is for half a surrogate pair, which an error may quote from the request.
    return Response(text.encode(errors="replace"), status, media_type="application/json")


def _error(message: str, status: int) -> Response:
    response = _json({"error": message}, status=status)
    if status in (429, 503):
        response.headers["Retry-After"] = "1"
    return response
