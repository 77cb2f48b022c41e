"""`GPT.attention_weights`: the weights of the plain path, seen from outside."""

import keras
import numpy as np
import pytest
from attention_reference import softmax
from gpt_cases import ARCHITECTURES, CONTEXT, make_gpt, random_ids, shared_gpt, small_tokenizer

TIME = 11


def weights_by_hand(gpt, ids, seen):
    """softmax(Q Kᵀ / sqrt(d)) in float64, from the queries and keys that each layer really made."""
    found, heads_of = [], type(gpt.blocks[0].attention)._heads

    def watched(layer, x, rotary):
        queries, new = heads_of(layer, x, rotary)
        q, k = (np.asarray(each, "float64")[0] for each in (queries, new.keys))
        k = np.repeat(k, len(q) // len(k), axis=0)  # heads that share keys
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        window = gpt.config.attention_window(len(found))
        near = np.abs(np.subtract.outer(np.arange(TIME), np.arange(TIME))) < (window or TIME)
        found.append(softmax(np.where(seen & near, scores, -np.inf)))
        return queries, new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(gpt.blocks[0].attention), "_heads", watched)
        gpt.hidden_states(np.array([ids]))
    return np.stack(found)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_they_are_the_formula_and_causal(name):
    gpt, ids = shared_gpt(name), random_ids(TIME).tolist()
    got = gpt.attention_weights(ids)
    config = gpt.config
    assert got.shape == (config.num_layers, config.num_heads, TIME, TIME)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-5)
    assert (got[..., ~np.tri(TIME, dtype=bool)] == 0).all()
    assert got.std() > 0.05  # nothing flat
    want = weights_by_hand(gpt, ids, np.tri(TIME, dtype=bool))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    for layer in (0, 1, -1, -2):
        one = gpt.attention_weights(ids, layer=layer)
        np.testing.assert_allclose(one, got[layer], rtol=1e-5, atol=1e-7)


def test_the_weights_make_the_layer_s_output():
    gpt = shared_gpt("llama")
    block = gpt.blocks[0]
    x, mask = keras.random.normal((1, TIME, 32), seed=1), np.tri(TIME, dtype=bool)[None, None]
    out, weights = block.attention.with_weights(x, mask, None)
    np.testing.assert_allclose(out, block.attention(x, mask), rtol=1e-5, atol=1e-6)
    _, new = block.attention._heads(x, None)
    values = np.repeat(np.asarray(new.values)[0], 2, axis=0)
    mixed = (np.asarray(weights)[0] @ values).transpose(1, 0, 2).reshape(1, TIME, 32)
    np.testing.assert_allclose(block.attention.projection(mixed), out, rtol=1e-4, atol=1e-5)
    after, same = block.with_weights(x, mask, None)
    np.testing.assert_allclose(after, block(x, mask), rtol=1e-5, atol=1e-6)
    assert not np.array_equal(same, weights)  # behind the norm


def test_windows_and_prefixes():
    ids = random_ids(TIME).tolist()
    banded = shared_gpt("gpt3").attention_weights(ids, layer=1)
    far = np.subtract.outer(np.arange(TIME), np.arange(TIME)) >= 5
    assert (banded[:, far] == 0).all()
    both = shared_gpt("prefix").attention_weights(ids, prefix_length=4)
    assert (both[..., :4, :4] > 0).all()
    assert (both[..., 4:, :][..., ~np.tri(TIME, dtype=bool)[4:]] == 0).all()
    np.testing.assert_allclose(both.sum(-1), 1, rtol=1e-5)


def test_text_and_its_ids_are_the_same():
    gpt = make_gpt(vocab_size=320, tokenizer=small_tokenizer())
    ids = small_tokenizer().encode("the cat")
    np.testing.assert_array_equal(
        gpt.attention_weights("the cat"), gpt.attention_weights(np.array(ids))
    )


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_of_a_quantized_model(mode):
    gpt = make_gpt(num_layers=1)
    ids = random_ids(TIME).tolist()
    full = gpt.attention_weights(ids)
    gpt.quantize(mode)
    got = gpt.attention_weights(ids)
    np.testing.assert_allclose(
        got, weights_by_hand(gpt, ids, np.tri(TIME, dtype=bool)), rtol=1e-4, atol=1e-6
    )
    assert 0 < np.abs(got - full).max() < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": [[1, 2], [3]]}, "text must be one text. Received: a list of 2"),
        ({"text": []}, "text must hold at least one"),
        ({"text": [1] * (CONTEXT + 1)}, f"must fit the context of {CONTEXT} tokens. Received: 49"),
        ({"layer": 2}, "layer must be an integer, from -2 to 1. Received: layer=2"),
        ({"layer": -3}, "layer must be an integer"),
        ({"prefix_length": 4}, "prefix_length must be an integer, from 0 to 3"),
        ({"prefix_length": 1}, "needs a model with bidirectional_prefix=True"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        shared_gpt("gpt2").attention_weights(**{"text": [1, 2, 3], **arguments})
