"""What the tests of the export share: a tokenizer, a small GPT, and how to ask a SavedModel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest

from keras_gpt import GPT, Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests. Why not? 日本語も。\n"

# dtype and neutral value of each setting; requests are greedy and short by default.
_SETTINGS = {
    "max_new_tokens": ("int32", [8]),
    "temperature": ("float32", [0.0]),
    "top_k": ("int32", [0]),
    "top_p": ("float32", [1.0]),
    "seed": ("int32", [0]),
    "min_p": ("float32", [0.0]),
    "typical_p": ("float32", [1.0]),
    "repetition_penalty": ("float32", [1.0]),
    "presence_penalty": ("float32", [0.0]),
    "frequency_penalty": ("float32", [0.0]),
    "no_repeat_ngram_size": ("int32", [0]),
    "min_new_tokens": ("int32", [0]),
    "logprobs": ("int32", [-1]),
    "stop": ("string", [[""]]),
    "echo": ("bool", [True]),
}


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    """A byte-level tokenizer of 300 ids, the last of which is the end of text."""
    return Tokenizer.train_from_texts([TEXT * 20], vocab_size=300)


@pytest.fixture(scope="session")
def make_gpt(words: Tokenizer) -> Callable[..., GPT]:
    """Make a GPT of two layers, 32 wide; its wide random weights make no two tokens alike."""

    def make(**fields: Any) -> GPT:
        keras.utils.set_random_seed(7)
        settings = {
            "vocab_size": words.vocab_size,
            "embedding_dim": 32,
            "num_heads": 2,
            "feed_forward_dim": 64,
            "num_layers": 2,
            "context_length": 128,
            "initializer_range": 0.4,
            "tokenizer": words,
        }
        return GPT(**{**settings, **fields})

    return make


@pytest.fixture(scope="session")
def limited_gpt(make_gpt: Callable[..., GPT]) -> GPT:
    """A GPT of one layer and a context of 64."""
    return make_gpt(num_layers=1, context_length=64)


@pytest.fixture(scope="session")
def limited(limited_gpt: GPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`limited_gpt`, exported for at most 4 rows of at most 40 new tokens."""
    folder = tmp_path_factory.mktemp("limited") / "tiny" / "1"
    limited_gpt.export(folder, max_batch=4, max_new_tokens=40)
    return folder


@pytest.fixture(scope="session")
def ask() -> Callable[..., dict[str, Any]]:
    """Call `generate` of a loaded SavedModel; settings are vectors, greedy and short by default."""
    import tensorflow as tf

    def ask_model(loaded: Any, prompt: Any, **settings: list[Any]) -> dict[str, Any]:
        signature = loaded.signatures["generate"]
        names = set(signature.structured_input_signature[1]) - {"prompt"}
        tensors = {
            name: tf.constant(settings.pop(name, value), dtype)
            for name, (dtype, value) in _SETTINGS.items()
            if name in names
        }
        assert not settings, f"no inputs of the signature: {set(settings)}"
        answer = signature(prompt=tf.constant(prompt), **tensors)
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return ask_model


@pytest.fixture(scope="session")
def read_graph() -> Callable[[Path], Any]:
    """Read the one graph of a `saved_model.pb`."""
    from tensorflow.core.protobuf import saved_model_pb2

    def read(folder: Path) -> Any:
        content = saved_model_pb2.SavedModel()
        content.ParseFromString((folder / "saved_model.pb").read_bytes())
        (graph,) = content.meta_graphs
        return graph

    return read
