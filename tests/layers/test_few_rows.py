"""Products of few rows beside the plain product."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from optimized import run_optimized

from keras_gpt.layers.few_rows import product
from keras_gpt.layers.quantized import Dense, TokenEmbedding
from keras_gpt.onednn import traced_for_xla


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(
        [
            (1,),
            (1, 1),
            (1, 1, 1),
            (2,),
            (1, 3),
            (2, 1),
            (4, 1),
            (5, 1),
            (2, 3),
            (16, 1),
            (17, 1),
            (32,),
            (33, 1),
        ]
    ),
    inputs=st.sampled_from([1, 63, 64, 192, 193, 384, 576, 768, 1600]),
    outputs=st.sampled_from([1, 5, 97, 384, 768]),
    dtype=st.sampled_from(["float32", "bfloat16", "float64"]),
    way=st.sampled_from(["graph", "compiled", "compiled for decoding"]),
)
def test_product_is_the_plain_product(
    shape: tuple[int, ...], inputs: int, outputs: int, dtype: str, way: str
) -> None:
    rng = np.random.default_rng(inputs)
    x = ops.cast(rng.normal(size=(*shape, inputs)), dtype)
    matrix = ops.cast(rng.normal(size=(outputs, inputs)), dtype)
    run = tf.function(product, jit_compile=way != "graph")
    with traced_for_xla() if way == "compiled for decoding" else contextlib.nullcontext():
        found = run(x, matrix)
    wanted = np.asarray(ops.cast(x, "float64")) @ np.asarray(ops.cast(matrix, "float64")).T
    assert found.dtype == x.dtype
    tolerances = {"float32": 1e-3, "bfloat16": 0.02 * np.sqrt(inputs) * 3, "float64": 1e-11}
    tolerance = tolerances[dtype]
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float64")), wanted, atol=tolerance)


@pytest.mark.parametrize("outputs", [97, 384, 400, 24 * 401])
@pytest.mark.parametrize("inputs", [63, 768])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_one_row_in_a_loop(dtype: str, inputs: int, outputs: int) -> None:
    """As a step of decoding: several rows of a matrix are read at once, and those left over."""
    rng = np.random.default_rng(outputs)
    dense = Dense(outputs, dtype=dtype if dtype != "int8" else "float32")
    dense.build((None, 1, inputs))
    if dtype == "int8":
        dense.quantize("int8")
    start = ops.cast(rng.normal(size=(1, 1, inputs)), dense.compute_dtype)

    def turns(start: tf.Tensor) -> tf.Tensor:
        found = tf.zeros((1, 1, outputs), start.dtype)
        with traced_for_xla():
            return tf.while_loop(
                lambda turn, x, found: turn < 3,
                lambda turn, x, found: (turn + 1, x + start, dense(x)),
                (0, start, found),
            )[2]

    found = tf.function(turns, jit_compile=True, autograph=False)(start)
    wanted = np.asarray(ops.cast(dense(3 * start), "float64"))
    scale = {"float32": 1e-5, "int8": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}[dtype]
    tolerance = scale * np.abs(wanted).max()
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float64")), wanted, atol=tolerance)


def test_products_as_xla_optimizes_for_users() -> None:
    tests = ("test_product_is_the_plain_product", "test_one_row_in_a_loop")
    run_optimized(*(f"{__file__}::{test}" for test in tests))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("each", [(), (1,), (3,)])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_number_of_rows_is_looked_at_where_it_is_not_known(
    dtype: str, each: tuple[int, ...], jit_compile: bool
) -> None:
    rng = np.random.default_rng(0)
    layer = Dense(128, use_bias=False, dtype="float32" if dtype == "int8" else dtype)
    layer.build((None, 64))
    if dtype == "int8":
        layer.quantize("int8")
    signature = [tf.TensorSpec((None, *each, 64), layer.compute_dtype)]
    run = tf.function(layer, input_signature=signature, jit_compile=jit_compile)
    for rows in (1, 2, 4, 5, 33):
        x = ops.cast(rng.normal(size=(rows, *each, 64)), layer.compute_dtype)
        wanted = np.asarray(ops.cast(x, "float64")) @ np.asarray(layer.kernel, "float64")
        found = np.asarray(ops.cast(run(x), "float64"))
        np.testing.assert_allclose(found, wanted, atol=0.02 if dtype == "bfloat16" else 1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("rank", [None, 4])
def test_an_embedding_gives_few_states_the_logits_of_many(dtype: str, rank: int | None) -> None:
    layer = TokenEmbedding(
        48, 64, reverse_dtype=None if dtype == "float32" else "bfloat16", dtype=dtype
    )
    layer.build()
    if rank is not None:
        layer.enable_lora(rank)
        layer.lora_embeddings_b.assign(np.ones((rank, 64), "float32"))
    x = ops.cast(np.random.default_rng(0).normal(size=(40, 64)), layer.compute_dtype)
    many = layer(x, reverse=True)
    assert keras.backend.standardize_dtype(many.dtype) == layer.compute_dtype
    for rows in (1, 8):
        few = ops.cast(layer(x[:rows], reverse=True), "float32")
        atol = 1e-5 if dtype == "float32" else 0.02
        np.testing.assert_allclose(few, ops.cast(many[:rows], "float32"), atol=atol)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "arguments", [{}, {"mask_zero": True}, {"logit_soft_cap": 2.0}, {"reverse_dtype": "bfloat16"}]
)
def test_an_embedding_of_floats_is_keras_own(tied: bool, arguments: dict[str, object]) -> None:
    ours, theirs = (
        kind(48, 64, tie_weights=tied, **arguments)
        for kind in (TokenEmbedding, keras.layers.ReversibleEmbedding)
    )
    ids = np.array([[1, 2, 0], [5, 0, 0]])
    ours(ids)
    wanted = theirs(ids)
    ours.set_weights(theirs.get_weights())
    found = ours(ids)
    np.testing.assert_array_equal(found, wanted)
    masks = [getattr(each, "_keras_mask", None) for each in (found, wanted)]
    assert (masks[0] is None) == (masks[1] is None) == ("mask_zero" not in arguments)
    if masks[0] is not None:
        np.testing.assert_array_equal(*masks)
    found, wanted = ours(found * 9, reverse=True), theirs(wanted * 9, reverse=True)
    assert found.dtype == wanted.dtype
    atol = 0.02 if "reverse_dtype" in arguments else 1e-5
    np.testing.assert_allclose(ops.cast(found, "float32"), ops.cast(wanted, "float32"), atol=atol)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_rows_whose_number_is_not_known_while_tracing(
    rows: int, time: int, is_compiled: bool
) -> None:
    x = np.random.default_rng(0).normal(size=(rows, time, 384)).astype("float32")
    layer = Dense(5, use_bias=False)
    layer.build((None, 384))
    signature = [tf.TensorSpec((None, time, 384))]
    found = tf.function(layer, input_signature=signature, jit_compile=is_compiled)(x)
    assert found.shape == (rows, time, 5)
    np.testing.assert_allclose(found, x @ np.asarray(layer.kernel), atol=1e-3)


@pytest.mark.parametrize("rank", [None, 4])
def test_dense_gives_one_row_what_it_gives_several(rank: int | None) -> None:
    layer = Dense(48)
    layer.build((None, 384))
    if rank is not None:
        layer.enable_lora(rank)
        layer.lora_kernel_b.assign(np.ones((rank, 48), "float32"))
    layer.bias.assign(np.arange(48.0))
    x = np.random.default_rng(0).normal(size=(6, 1, 384)).astype("float32")
    alone = [np.asarray(layer(x[row : row + 1])) for row in range(6)]
    np.testing.assert_allclose(np.concatenate(alone), np.asarray(layer(x)), atol=1e-4)
