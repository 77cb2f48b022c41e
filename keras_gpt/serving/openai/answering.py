"""From a job to the response: at once, or as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from keras_gpt.serving.openai.choices import Choice
from keras_gpt.serving.openai.errors import ApiError, json_bytes, json_response
from keras_gpt.serving.openai.forms import Form
from keras_gpt.serving.openai.records import Record
from keras_gpt.serving.openai.running import Job, Running
from keras_gpt.serving.openai.schemas import Sampling
from keras_gpt.serving.openai.service import Service

T = TypeVar("T")


async def respond(
    request: Request, record: Record, service: Service, body: Sampling, job: Job, form: Form
) -> Response:
    """Answer a request.

    Raises:
        ApiError: it cannot be answered.
        ClientDisconnect: nobody waits for the answer any more.
    """
    running = Running(service, job, record.client)
    choices = [
        Choice(service.gpt.tokenizer, prompt) for prompt in job.prompts for _ in range(job.n)
    ]
    record.begin(job.num_prompt_tokens, choices, body.stream)
    record.at_end(running.cancel)  # whatever becomes of the response
    await running.start()
    if body.stream:
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(record, running, choices, form, wants_usage)
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )
    await while_connected(request, _collect(record, running, choices))
    return json_response(form.whole(choices, record.usage()))


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work for as long as the client waits for it.

    Raises:
        ClientDisconnect: the client has gone; the work was cancelled.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _collect(record: Record, running: Running, choices: list[Choice]) -> None:
    async for place, text, chosen, answer in running.events():
        record.saw_token()
        if chosen is not None:
            choices[place].push(text, chosen)
        elif answer is not None:
            choices[place].end(text, answer)


async def _events(
    record: Record, running: Running, choices: list[Choice], form: Form, wants_usage: bool
) -> AsyncIterator[bytes]:
    # Where usage is asked for, all other chunks say that they have none.
    none: dict[str, Any] = {"usage": None} if wants_usage else {}

    def event_of(choice: dict[str, Any]) -> bytes:
        return _event({**form.chunk(choice), **none})

    try:
        for index in range(len(choices)):
            for choice in form.first(index):
                yield event_of(choice)
        async for place, text, chosen, answer in running.events():
            record.saw_token()
            if chosen is not None:
                delta = choices[place].push(text, chosen)
            else:
                assert answer is not None
                delta = choices[place].end(text, answer)
            if delta.text or delta.tokens:
                yield event_of(form.delta(place, delta))
            if answer is not None:
                yield event_of(form.last(place, choices[place].finish_reason))
        if wants_usage:
            yield _event({**form.chunk(), "usage": record.usage().to_dict()})
        yield b"data: [DONE]\n\n"
    except ApiError as error:  # the status has been sent; clients look for this
        record.error = error
        yield _event(error.body())


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
