"""POST /v1/embeddings: texts in, vectors out."""

import base64
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool

from keras_gpt.serving.openai.completions import prompt_ids, prompts_of
from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.schemas import EmbeddingRequest
from keras_gpt.serving.openai.service import Service


def embedding_inputs(service: Service, body: EmbeddingRequest) -> list[list[int]]:
    """Give the ids of what is to be embedded.

    Raises:
        ApiError: an input is not text or ids of this model, or longer than it may be.
    """
    inputs = [prompt_ids(service, each, "input") for each in prompts_of(body.input, "input")]
    for ids in inputs:
        if len(ids) > service.max_length:
            raise ApiError(
                400,
                f"an input may have {service.max_length} tokens. Received: {len(ids)}",
                param="input",
                code="context_length_exceeded",
            )
    return inputs


async def embed(service: Service, inputs: list[list[int]]) -> np.ndarray:
    """Give one vector of length 1 an input, (inputs, embedding_dim) float32.

    Raises:
        ApiError: too many requests wait.
    """
    async with service.reading_turn():
        vectors: np.ndarray = await run_in_threadpool(service.gpt.embed, inputs)
        return vectors


def embedding_response(
    service: Service, body: EmbeddingRequest, vectors: np.ndarray, num_tokens: int
) -> dict[str, Any]:
    """Give the response's body."""
    rows: list[Any] = vectors.tolist()
    if body.encoding_format == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    return {
        "object": "list",
        "model": service.name,
        "data": [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(rows)
        ],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
