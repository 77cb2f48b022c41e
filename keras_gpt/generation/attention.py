"""Where the tokens of a text look: the attention weights of a model's layers."""

from itertools import islice
from typing import Any

import numpy as np
from keras import ops

from keras_gpt.generation.options import read_prompts
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import tensor
from keras_gpt.generation.sampling_options import check_int


def attention_weights(
    model: Decoder, text: Any, layer: int | None = None, prefix_length: int = 0
) -> np.ndarray:
    """Give attention weights; `GPT.attention_weights` documents the arguments."""
    read = read_prompts(model, text, "text")
    layers, context = model.config.num_layers, model.config.context_length
    if not read.is_one:
        raise ValueError(f"text must be one text. Received: a list of {len(read.ids)}")
    ids = read.ids[0]
    if len(ids) > context:
        raise ValueError(
            f"text must fit the context of {context} tokens. Received: {len(ids)} tokens"
        )
    if layer is not None:
        check_int("layer", layer, -layers, layers - 1)
    check_int("prefix_length", prefix_length, 0, len(ids))
    inputs = {"token_ids": tensor([ids], "int32")}
    if prefix_length:
        inputs["prefix_lengths"] = tensor([prefix_length], "int32")
    # Not compiled: each length and layer would be another program, for one run.
    by_layer = model.attention_by_layer(inputs)
    if layer is None:
        return np.stack([_of_the_row(weights) for weights in by_layer])
    return _of_the_row(next(islice(by_layer, layer % layers, None)))


def _of_the_row(weights: Any) -> np.ndarray:
    found: np.ndarray = ops.convert_to_numpy(weights)[0]
    return found
