"""POST /v1/embeddings: texts in, vectors out."""

import asyncio
import base64
from typing import Any

import numpy as np

from keras_gpt.serving.openai.completions import prompt_ids, prompts_of
from keras_gpt.serving.openai.errors import unavailable
from keras_gpt.serving.openai.schemas import EmbeddingRequest
from keras_gpt.serving.openai.service import Service

_AT_ONCE = 8


def embedding_inputs(service: Service, body: EmbeddingRequest) -> list[list[int]]:
    """Give the ids of what is to be embedded.

    Raises:
        ApiError: an input is not text or ids of this model, or longer than it may be.
    """
    inputs = [prompt_ids(service, each, "input") for each in prompts_of(body.input, "input")]
    for ids in inputs:
        service.check_tokens(len(ids), "input")
    return inputs


async def embed(service: Service, inputs: list[list[int]]) -> np.ndarray:
    """Give one vector of length 1 an input, (inputs, embedding_dim) float32.

    A few inputs at a time, so that a request of thousands lets others in between, and ends soon
    after nobody waits for it.

    Raises:
        ApiError: too many requests wait, or the deadline has come.
    """
    vectors = np.empty((len(inputs), service.gpt.config.embedding_dim), "float32")
    # Those of like length together, as `GPT.embed` has it for all.
    places = sorted(range(len(inputs)), key=lambda place: len(inputs[place]))
    try:
        with service.reading_place():
            async with asyncio.timeout(service.limits.deadline):
                for start in range(0, len(places), _AT_ONCE):
                    some = places[start : start + _AT_ONCE]
                    texts = [inputs[place] for place in some]
                    vectors[some] = await service.read(service.gpt.embed, texts)
    except TimeoutError as error:
        raise unavailable(
            "it took too long: try again, or ask for less", "deadline_exceeded"
        ) from error
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
