"""POST /v1/attention: where each token of a prompt and its answer looks, in one layer.

OpenAI's API has nothing like it; the page shows it.
"""

import base64
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.serving.openai.chat import message_ids
from keras_gpt.serving.openai.choices import token_bytes
from keras_gpt.serving.openai.completions import prompt_ids
from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.schemas import AttentionRequest
from keras_gpt.serving.openai.service import Service

MOST_TOKENS = 512  # the weights grow with their square


class Reading(NamedTuple):
    """What is read: the ids of a prompt and of what there is of its answer."""

    prompt: list[int]
    answer: list[int]
    layer: int

    @property
    def ids(self) -> list[int]:
        """Give all ids."""
        return self.prompt + self.answer


def attention_reading(service: Service, body: AttentionRequest) -> Reading:
    """Give what is to be read.

    Raises:
        ApiError: there is no such layer, or the text is not of this model or longer than it may be.
    """
    layers = service.gpt.config.num_layers
    if body.layer >= layers:
        raise ApiError(
            400,
            f"layer must be from 0 to {layers - 1}. Received: {body.layer}",
            param="layer",
            code="invalid_value",
        )
    if body.messages is None:
        param, prompt = "prompt", prompt_ids(service, body.prompt or "", "prompt")
    else:
        param, prompt = "messages", message_ids(service, body.messages)
    service.check_characters(len(body.answer), "answer")
    reading = Reading(prompt, service.gpt.tokenizer.encode(body.answer), body.layer)
    most = min(service.max_length, MOST_TOKENS)
    if len(reading.ids) > most:
        raise ApiError(
            400,
            f"{param} and answer may have {most} tokens together here. Received: "
            f"{len(reading.ids)}",
            param=param,
            code="context_length_exceeded",
        )
    return reading


async def attention(service: Service, reading: Reading) -> dict[str, Any]:
    """Give the response's body.

    Raises:
        ApiError: too many requests wait.
    """
    with service.reading_place():
        return await service.read(_body, service, reading)


def _body(service: Service, reading: Reading) -> dict[str, Any]:
    gpt = service.gpt
    # A prompt is read as the engine reads it.
    prefix = len(reading.prompt) if gpt.config.bidirectional_prefix else 0
    weights = gpt.attention_weights(reading.ids, reading.layer, prefix)
    count = len(reading.ids)
    return {
        "object": "attention",
        "model": service.name,
        "layer": reading.layer,
        "num_heads": len(weights),
        "num_prompt_tokens": len(reading.prompt),
        "tokens": [list(token_bytes(gpt.tokenizer, token)) for token in reading.ids],
        # A byte is as much as a picture shows; numbers in full would be ten times as long.
        "weights": base64.b64encode(np.rint(weights * 255).astype("uint8").tobytes()).decode(),
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }
