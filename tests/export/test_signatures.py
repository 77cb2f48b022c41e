"""What a server needs of the signatures: embed, limits, and requests that are put together."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPT

TEXTS = ["The quick brown fox", "W", "Why not? 日本語も。 The quick brown fox", "lazy"]


@pytest.fixture(scope="module")
def loaded(limited: Path) -> Any:
    return tf.saved_model.load(str(limited))


def embed(loaded: Any, text: Any, pooling: Any = ("mean",), normalize: Any = (True,)) -> Any:
    return loaded.signatures["embed"](
        text=tf.constant(text), pooling=tf.constant(pooling), normalize=tf.constant(normalize)
    )["embedding"]


def test_embed_is_that_of_the_model(limited_gpt: GPT, loaded: Any) -> None:
    """Of every pooling and length, each row with its own; in a batch and alone."""
    np.testing.assert_allclose(embed(loaded, TEXTS), limited_gpt.embed(TEXTS), rtol=1e-4, atol=1e-6)
    pooling, normalize = ["last", "mean", "last", "mean"], [True, False, False, True]
    mixed = embed(loaded, TEXTS, pooling, normalize)
    for row, text in enumerate(TEXTS):
        expected = limited_gpt.embed(text, pooling=pooling[row], normalize=normalize[row])
        np.testing.assert_allclose(mixed[row], expected, rtol=1e-4, atol=1e-5)


def test_bad_texts_to_embed_are_named(loaded: Any) -> None:
    """As `embed` names them."""
    for text, pooling, message in (
        ([""], ["mean"], "text must not be empty"),
        (["The quick " * 30], ["mean"], "text must fit the context of 64 tokens"),
        (["dog"], ["max"], "pooling must be one of mean, last"),
        (["a", "b", "c"], ["mean", "last"], "pooling must have one value, or one a row"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            embed(loaded, text, pooling)


def test_more_than_the_limits_is_refused(
    limited_gpt: GPT,
    loaded: Any,
    limited: Path,
    ask: Callable[..., Any],
    read_graph: Callable[..., Any],
) -> None:
    """Rows and new tokens; what a request does not say is no more than half the context."""
    five = tf.constant(["a"] * 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="prompt must have at most 4 rows"):
        ask(loaded, ["a"] * 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="text must have at most 4 rows"):
        loaded.signatures["score"](text=five, given=tf.constant([""]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="text must have at most 4 rows"):
        embed(loaded, ["a"] * 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="token_ids must have at most 4 rows"):
        loaded.signatures["token_logits"](token_ids=tf.zeros([5, 3], tf.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_new_tokens must be at most 40"):
        ask(loaded, ["a"], max_new_tokens=[41])
    definition = read_graph(limited).signature_def["serving_default"]
    assert tf.make_ndarray(definition.defaults["max_new_tokens"]).tolist() == [32]
    alone = limited_gpt.generate("dog", max_new_tokens=20, temperature=0.0)
    assert ask(loaded, ["dog"], max_new_tokens=[20])["text"][0].decode() == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_batch": 0}, "max_batch must be an integer"),
        ({"max_new_tokens": 65}, "max_new_tokens must be an integer, from 1 to 64"),
        ({"max_batch": 2, "format": "onnx"}, 'belong to format="tf_saved_model"'),
    ],
)
def test_bad_limits_are_named(
    limited_gpt: GPT, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match=message):
        limited_gpt.export(tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


def put_together(requests: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Merge requests as TensorFlow Serving's batching does, with padding of variable lengths on.

    Inputs are put behind one another. Narrower ones are made as wide as the widest with their own
    first element, and a row of the last request fills the batch up to an allowed size.
    """
    merged = {}
    for name in requests[0]:
        arrays = [np.asarray(request[name]) for request in requests]
        assert all(array.ndim >= 1 for array in arrays)
        widest = max(array.shape[1] for array in arrays) if arrays[0].ndim > 1 else 0
        for place, array in enumerate(arrays):
            if array.ndim > 1:
                fill = [(0, 0), (0, widest - array.shape[1])]
                arrays[place] = np.pad(array, fill, constant_values=array.ravel()[0])
        missing = size - sum(len(array) for array in arrays)
        merged[name] = np.concatenate([*arrays, *[arrays[-1][:1]] * missing])
    return merged


def test_requests_that_a_server_puts_together_are_answered_as_alone(
    limited_gpt: GPT, loaded: Any, limited: Path, read_graph: Callable[..., Any]
) -> None:
    """Requests of one row, most of whose inputs are the defaults that the server fills in."""
    definition = read_graph(limited).signature_def["serving_default"]
    defaults = {name: tf.make_ndarray(value) for name, value in definition.defaults.items()}
    whole = limited_gpt.generate("The quick", max_new_tokens=20, temperature=0.0, echo=False)
    stop = [re.findall("[a-z]", whole)[0], "zzz"]
    given = [
        {"prompt": ["The quick"], "temperature": [0.0], "stop": [stop], "logprobs": [2]},
        {"prompt": ["日本語も"], "temperature": [0.8], "seed": [3], "max_new_tokens": [7]},
        {"prompt": ["The quick"], "temperature": [0.0]},
    ]
    requests = [{**defaults, **each} for each in given]
    merged = put_together(requests, 4)
    inputs = {
        name: tf.constant(value, tf.as_dtype(definition.inputs[name].dtype))
        for name, value in merged.items()
    }
    answer = loaded.signatures["serving_default"](**inputs)
    # The server shares the outputs out by rows, so each must have them all.
    assert {len(value) for value in answer.values()} == {4}
    expected = [
        limited_gpt.generate("The quick", max_new_tokens=32, temperature=0.0, stop=stop),
        limited_gpt.generate("日本語も", max_new_tokens=7, temperature=0.8, seed=3),
        limited_gpt.generate("The quick", max_new_tokens=32, temperature=0.0),
    ]
    assert expected[0] != expected[2]
    assert [text.decode() for text in answer["text"][:3].numpy()] == expected
