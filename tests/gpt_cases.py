"""Small models of every architecture, shared by the tests."""

import functools
import zlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import pytest

from keras_gpt import GPT, Tokenizer

VOCAB_SIZE = 96
CONTEXT = 48

# One for each column of the table of architectures, and what the documents name besides.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt1": {"norm_placement": "post"},
    "gpt2": {},
    "gpt3": {"attention_windows": (None, 5)},
    "llama": {
        "normalization": "rms_norm",
        "positions": "rotary",
        "feed_forward": "gated",
        "activation": "silu",
        "num_kv_heads": 2,
        "use_bias": False,
        "tie_embeddings": False,
    },
    "prefix": {
        "bidirectional_prefix": True,
        "positions": "sinusoidal",
        "activation": "relu",
        "output_activation": "tanh",
    },
}


def some(cases: Iterable[Any], *usual: Any) -> list[Any]:
    """Give cases for `pytest.mark.parametrize`, of which those that are not usual are slow."""
    slow = pytest.mark.slow
    return [case if case in usual else pytest.param(case, marks=slow) for case in cases]


def architectures(*usual: str) -> list[Any]:
    """Name all architectures for `pytest.mark.parametrize`; those that are not usual are slow."""
    return some(ARCHITECTURES, *usual)


def make_gpt(**fields: Any) -> GPT:
    """Make a model of 2 layers, 32 wide, with weights large enough to tell its logits apart."""
    fields = {"context_length": CONTEXT, "initializer_range": 0.3, **fields}
    vocab_size, layers = fields.pop("vocab_size", VOCAB_SIZE), fields.pop("num_layers", 2)
    return GPT(vocab_size, 32, 4, 64, layers, **fields)


def shared_gpt(name: str) -> GPT:
    """Give the one model of an architecture that tests read and none changes."""
    gpt = _shared_gpt(name)
    keras.utils.set_random_seed(0)  # the same for a test that had to make it and one that had not
    return gpt


@functools.cache
def _shared_gpt(name: str) -> GPT:
    keras.utils.set_random_seed(zlib.crc32(name.encode()))
    return make_gpt(**ARCHITECTURES[name])


@functools.cache
def small_tokenizer() -> Tokenizer:
    """Give a byte-level tokenizer with few merges."""
    return Tokenizer.train_from_texts(["the cat sat on the mat. Once upon a time"] * 4, 270)


def random_ids(*shape: int, seed: int = 0, high: int = VOCAB_SIZE) -> np.ndarray:
    """Give random token ids."""
    return np.random.default_rng(seed).integers(0, high, shape).astype("int32")


def logits_of(gpt: GPT, inputs: Any, **kwargs: Any) -> np.ndarray:
    """Give the logits of the plain forward pass as float32."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(gpt(inputs, **kwargs), "float32")))
