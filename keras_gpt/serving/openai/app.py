"""The OpenAI-style API as a FastAPI application.

Source: OpenAI's public API description (openapi.json).
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any, TextIO, TypeVar

try:
    from fastapi import APIRouter, Depends, FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse
except ImportError as error:
    raise ImportError(
        "serving needs fastapi and uvicorn: pip install 'keras-gpt[serve]'"
    ) from error

from keras_gpt.serving.bodies import read_body
from keras_gpt.serving.openai.answering import respond, while_connected
from keras_gpt.serving.openai.attention import attention, attention_reading
from keras_gpt.serving.openai.card import model_card
from keras_gpt.serving.openai.chat import ChatForm, chat_job, constraint_of
from keras_gpt.serving.openai.completions import CompletionForm, completion_job
from keras_gpt.serving.openai.content import check_content
from keras_gpt.serving.openai.document import describe
from keras_gpt.serving.openai.embeddings import embed, embedding_inputs, embedding_response
from keras_gpt.serving.openai.errors import ApiError, json_response
from keras_gpt.serving.openai.gate import Gate
from keras_gpt.serving.openai.keys import Keys
from keras_gpt.serving.openai.metrics import CONTENT_TYPE, Metrics
from keras_gpt.serving.openai.records import Log, Record
from keras_gpt.serving.openai.schemas import (
    AttentionRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    ModelRequest,
    read_as,
)
from keras_gpt.serving.openai.service import Limits, Service
from keras_gpt.serving.page.routes import page_routes

Body = TypeVar("Body", bound=ModelRequest)


def create_app(
    gpt: Any,
    name: str,
    *,
    limits: Limits | None = None,
    keys: Keys | None = None,
    log: TextIO | None = None,
    log_prompts: bool = False,
) -> FastAPI:
    """Make the application that answers for a model.

    It compiles the model's functions when it is started; until then requests get status 503.

    Args:
        gpt: a `GPT` with a tokenizer. Its weights must not change any more.
        name: what clients call it.
        limits: how much it takes on; None is the usual.
        keys: who may use it; None lets everybody who reaches the address.
        log: takes one line of JSON for each request; None drops them.
        log_prompts: whether those lines have what clients asked.

    Returns:
        The application. `app.state.service` is its `Service`, which ends with the application, and
        `app.state.log` its `Log`.

    Raises:
        ImportError: FastAPI is missing.
        ValueError: the model has no tokenizer, or a limit is out of range.

    Example:
        >>> app = create_app(gpt, "my-gpt", limits=Limits(max_batch=4))  # for any ASGI server
    """
    service = Service(gpt, name, limits or Limits())
    lines = Log(log, log_prompts)
    metrics = Metrics(service)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=_warm_up, args=(service, lines), daemon=True).start()
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="keras_gpt, OpenAI's API",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.log = lines
    app.add_middleware(Gate, service=service, log=lines, metrics=metrics)

    async def authenticate(request: Request) -> None:
        if keys is not None:
            record = _record(request)
            key = keys.find(request.headers.get("authorization"))
            record.key, record.client = key, key.name
            key.take_request()

    router = APIRouter(prefix="/v1", dependencies=[Depends(authenticate)])

    async def read(request: Request, kind: type[Body]) -> Body:
        service.check_ready()
        check_content(request.headers)
        try:
            async with asyncio.timeout(service.limits.client_timeout):
                sent = await read_body(request, service.limits.max_request_bytes)
        except TimeoutError as error:
            raise ApiError(
                408,
                f"a request must come within {service.limits.client_timeout} s",
                code="request_timeout",
                headers={"connection": "close"},
            ) from error
        if sent is None:
            most = service.limits.max_request_bytes
            raise ApiError(413, f"a request may have {most} bytes", code="request_too_large")
        body = await run_in_threadpool(read_as, kind, sent)
        service.check_model(body.model)
        return body

    @app.get("/health/live")
    async def live() -> Response:
        return json_response({"live": service.is_alive}, 200 if service.is_alive else 503)

    @app.get("/health/ready")
    async def ready() -> Response:
        return json_response({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def counts() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @router.get("/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [model_card(service)]})

    @router.get("/models/{model:path}")
    async def model(model: str) -> Response:
        service.check_model(model)
        return json_response(model_card(service))

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        body = await read(request, CompletionRequest)
        record = _record(request)
        if lines.with_prompts:
            record.prompt = body.prompt
        job = await run_in_threadpool(completion_job, service, body)
        form = CompletionForm(service, body, job)
        return await respond(request, record, service, body, job, form)

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        body = await read(request, ChatRequest)
        record = _record(request)
        if lines.with_prompts:
            record.prompt = [message.model_dump() for message in body.messages]
        constraint = await while_connected(request, constraint_of(service, body))
        job = await run_in_threadpool(chat_job, service, body, constraint)
        return await respond(request, record, service, body, job, ChatForm(service, body))

    @router.post("/embeddings")
    async def embeddings(request: Request) -> Response:
        body = await read(request, EmbeddingRequest)
        record = _record(request)
        if lines.with_prompts:
            record.prompt = body.input
        inputs = await run_in_threadpool(embedding_inputs, service, body)
        num_tokens = sum(map(len, inputs))
        record.begin(num_tokens)
        vectors = await while_connected(request, embed(service, inputs))
        return json_response(embedding_response(service, body, vectors, num_tokens))

    @router.post("/attention")
    async def attention_of_text(request: Request) -> Response:
        body = await read(request, AttentionRequest)
        record = _record(request)
        if lines.with_prompts:
            record.prompt = body.prompt or [each.model_dump() for each in body.messages or []]
        reading = await run_in_threadpool(attention_reading, service, body)
        record.begin(len(reading.ids))
        return json_response(await while_connected(request, attention(service, reading)))

    app.include_router(router)
    app.router.routes.extend(page_routes())

    @app.get("/openapi.json", include_in_schema=False)
    async def document() -> Response:
        return json_response(describe(app, name))

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        _record(request).error = error
        return error.response()

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {request.url.path}"
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
        return await refused(
            request, ApiError(error.status_code, message, code=code, headers=error.headers)
        )

    return app


def _warm_up(service: Service, log: Log) -> None:
    try:
        service.warm_up()
    except Exception as error:
        log.write("error", message=f"the model could not be compiled: {error!r}")
        raise
    log.write("ready", model=service.name)


def _record(request: Request) -> Record:
    record: Record = request.state.record
    return record
