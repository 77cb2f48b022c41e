import keras
import numpy as np
import pytest
from attention_reference import randomize, reference
from gpt_cases import make_gpt

from keras_gpt import GPTConfig
from keras_gpt.key_values import KeyValues
from keras_gpt.layers import CausalSelfAttention, attention_mask, rotary_tables, rotate

BATCH, TIME, DIM, HEADS = 2, 6, 16, 4


def config(**fields):
    return GPTConfig(
        vocab_size=5,
        embedding_dim=DIM,
        num_heads=HEADS,
        feed_forward_dim=8,
        num_layers=1,
        context_length=TIME,
        initializer_range=0.5,
        **fields,
    )


MASKS = {
    "causal": {},
    "banded": {"window": 3},
    "prefix": {"prefix_lengths": np.array([4, 0])},
    "padding": {"mask": np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]], bool)},
    "documents": {"segment_ids": np.array([[0, 0, 1, 1, 1, 2], [0] * 6])},
    "attention": {
        "mask": np.random.default_rng(5).integers(0, 2, (2, 6, 6)) | np.eye(6, dtype=int)
    },
    "all": {
        "window": 4,
        "mask": np.array([[1, 1, 1, 1, 0, 0], [1] * 6], bool),
        "segment_ids": np.array([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]]),
    },
}


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("name", MASKS)
def test_attention_is_the_formula(name, kv_heads):
    layer = CausalSelfAttention(config(num_kv_heads=kv_heads))
    layer.build(None)
    randomize(layer)
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, DIM)).astype("float32")
    mask = attention_mask(TIME, **MASKS[name])
    seen = np.broadcast_to(np.asarray(mask)[:, 0], (BATCH, TIME, TIME)).copy()
    blind = ~seen.any(-1)
    seen[blind] = True  # a query that sees nothing has no defined output; it must only be finite
    got = np.asarray(layer(x, mask))
    np.testing.assert_allclose(got[~blind], reference(layer, x, seen)[~blind], rtol=1e-4, atol=1e-5)
    assert np.isfinite(got).all()


def test_rotary_attention_is_the_formula():
    layer = CausalSelfAttention(config(positions="rotary", num_kv_heads=2))
    layer.build(None)
    randomize(layer)
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, DIM)).astype("float32")
    positions = np.arange(3, 3 + TIME)
    got = layer(x, attention_mask(TIME), rotary_tables(positions[None], DIM // HEADS, 10000.0))
    mask = np.broadcast_to(np.tri(TIME, dtype=bool), (BATCH, TIME, TIME))
    np.testing.assert_allclose(got, reference(layer, x, mask, positions), rtol=1e-4, atol=1e-5)


def test_grouped_heads_are_full_heads_with_repeated_keys_and_values():
    grouped, full = CausalSelfAttention(config(num_kv_heads=2)), CausalSelfAttention(config())
    for layer in (grouped, full):
        layer.build(None)
    randomize(grouped)
    size = DIM // HEADS

    def repeated(weight):
        q, k, v = np.split(np.asarray(weight), [DIM, DIM + 2 * size], axis=-1)

        def twice(part):
            heads = part.reshape(*part.shape[:-1], 2, size)
            return np.repeat(heads, 2, axis=-2).reshape(*part.shape[:-1], DIM)

        return np.concatenate([q, twice(k), twice(v)], axis=-1)

    full.qkv._kernel.assign(repeated(grouped.qkv.kernel).T)
    full.qkv.bias.assign(repeated(grouped.qkv.bias))
    for a, b in zip(full.projection.weights, grouped.projection.weights, strict=True):
        a.assign(b)
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, DIM)).astype("float32")
    mask = attention_mask(TIME, window=3)
    np.testing.assert_allclose(grouped(x, mask), full(x, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_rows_that_see_nothing_stay_finite(policy):
    layer = CausalSelfAttention(config(), dtype=policy)
    x = np.random.default_rng(0).normal(size=(1, TIME, DIM)) * 30
    got = layer(x.astype("float32"), np.zeros((1, 1, TIME, TIME), bool))
    assert np.isfinite(np.asarray(keras.ops.cast(got, "float32"))).all()
    assert keras.backend.standardize_dtype(got.dtype) == layer.compute_dtype


@pytest.mark.parametrize("past_length", [0, 1, 3, TIME - 1])
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05), ("float16", 0.005)]
)
def test_steps_are_the_rows_of_a_call(past_length, policy, tolerance):
    """From a past of any length on; what the masks hide is rubbish that nobody may see.

    On a CPU keys and values of half precision are kept as float32.
    """
    layer = CausalSelfAttention(config(positions="rotary", num_kv_heads=2), dtype=policy)
    layer.build(None)
    randomize(layer)
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, DIM)).astype("float32")

    def tables(positions):
        return rotary_tables(np.array([positions]), DIM // HEADS, 10000.0)

    mask = attention_mask(TIME)
    x = keras.ops.cast(x, policy)
    want, everything = layer.prefill(x, mask, tables(range(TIME)))
    kept = [keras.backend.standardize_dtype(part.dtype) for part in everything]
    assert kept == ["float32", "float32"]
    seen = (np.arange(TIME) < past_length)[None, None, :, None]
    past = KeyValues(*[np.where(seen, part, 7.0) for part in everything])
    slots = np.arange(TIME)
    rubbish = keras.ops.full((BATCH, 2, TIME, DIM // HEADS), 7.0)
    recent = KeyValues(rubbish, rubbish)
    for slot, t in enumerate(range(past_length, TIME)):
        out, recent = layer.step(
            x[:, t : t + 1],
            past,
            recent,
            np.full(BATCH, slot, "int32"),
            np.concatenate([slots < past_length, slots <= slot])[None, None, None, :],
            tables([t]),
        )
        assert keras.backend.standardize_dtype(out.dtype) == policy
        found, wanted = (
            np.asarray(keras.ops.cast(each, "float32")) for each in (out[:, 0], want[:, t])
        )
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_dropout_acts_in_training_alone():
    layer = CausalSelfAttention(config(attention_dropout=0.5))
    x, mask = keras.random.normal((1, TIME, DIM), seed=0), attention_mask(TIME)
    quiet = np.asarray(layer(x, mask))
    np.testing.assert_array_equal(quiet, np.asarray(layer(x, mask, training=False)))
    assert np.abs(np.asarray(layer(x, mask, training=True)) - quiet).max() > 1e-3


def test_round_trip_of_the_config():
    layer = CausalSelfAttention(config(num_kv_heads=2), name="a", dtype="mixed_bfloat16")
    again = CausalSelfAttention.from_config(layer.get_config())
    assert (again.gpt_config, again.name) == (layer.gpt_config, "a")
    assert again.compute_dtype == "bfloat16"


def test_kernels_are_matrices():
    for weight in make_gpt(num_kv_heads=2, feed_forward="gated").trainable_weights:
        assert len(weight.shape) <= 2


def test_rotate_is_what_the_layer_uses_for_queries_and_keys():
    heads = keras.random.normal((1, 1, 2, 4), seed=0)
    at_zero = rotate(heads, rotary_tables(np.zeros((1, 2), "int32"), 4, 10000.0))
    np.testing.assert_allclose(at_zero, heads)
