"""Texts as vectors: the last states of a model, pooled over each text."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_gpt.generation.cache import batch_bucket, length_bucket
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.options import read_prompts
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import tensor

POOLINGS = ("mean", "last")
_ROWS_AT_ONCE = 8


def embed(model: Decoder, texts: Any, pooling: str = "mean", normalize: bool = True) -> np.ndarray:
    """Embed texts; `GPT.embed` documents the arguments."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}. Received: pooling={pooling!r}")
    read = read_prompts(model, texts, "texts")
    context = model.config.context_length
    for index, ids in enumerate(read.ids):
        if len(ids) > context:
            raise ValueError(
                f"texts[{index}] must fit the context of {context} tokens. Received: {len(ids)} tokens"
            )
    function = pooled_states(model)
    vectors = np.empty((len(read.ids), model.config.embedding_dim), "float32")
    # Texts of like length share a program's run, and little of it is padding.
    places = np.argsort([len(ids) for ids in read.ids], kind="stable")
    for start in range(0, len(places), _ROWS_AT_ONCE):
        some = places[start : start + _ROWS_AT_ONCE]
        rows = [read.ids[place] for place in some]
        shape = (batch_bucket(len(rows)), length_bucket(len(rows[-1]), context))
        token_ids, lengths = np.zeros(shape, "int32"), np.ones(shape[0], "int32")
        for row, ids in enumerate(rows):
            token_ids[row, : len(ids)], lengths[row] = ids, len(ids)
        pooled = function(tensor(token_ids, "int32"), tensor(lengths, "int32"))
        vectors[some] = ops.convert_to_numpy(pooled[POOLINGS.index(pooling)])[: len(rows)]
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norms > 0, norms, 1)
    return vectors[0] if read.is_one else vectors


def pooled_states(model: Decoder) -> Callable[..., tuple[Any, Any]]:
    """Give the compiled function of `embed`, made on first use and kept with the model.

    It takes ids (batch, time) that are padded on the right, and the rows' lengths (batch,), and
    gives a tensor (batch, embedding_dim) for each of `POOLINGS`.
    """
    function: Callable[..., tuple[Any, Any]] = kept_with(
        model, "_pooled_states", lambda: compiled(_function(model), model)
    )
    return function


def _function(model: Decoder) -> Any:
    def pooled(token_ids: Any, lengths: Any) -> tuple[Any, Any]:
        """Give the mean and the last state of each row.  (batch, time), (batch,) -> 2 (batch, dim)"""
        inputs = {"token_ids": token_ids}
        if model.config.bidirectional_prefix:
            inputs["prefix_lengths"] = lengths
        states = ops.cast(model.hidden_states(inputs, training=False), "float32")
        places = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        ends = ops.expand_dims(lengths, 1)
        is_real = ops.expand_dims(ops.expand_dims(places, 0) < ends, 2)  # (batch, time, 1)
        total = ops.sum(ops.where(is_real, states, 0.0), axis=1)
        last = ops.take_along_axis(states, ops.expand_dims(ends - 1, 2), axis=1)
        return total / ops.cast(ends, "float32"), ops.squeeze(last, axis=1)

    return pooled
