"""Products of few rows beside the plain product."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_gpt.layers.few_rows import product
from keras_gpt.layers.quantized import Dense


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from(
        [(1,), (1, 1), (1, 1, 1), (2,), (1, 3), (2, 1), (4, 1), (5, 1), (16, 1), (17, 1)]
    ),
    inputs=st.sampled_from([1, 63, 64, 192, 193, 384, 576, 768, 1600]),
    outputs=st.integers(1, 5),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_product_is_the_plain_product(
    shape: tuple[int, ...], inputs: int, outputs: int, dtype: str
) -> None:
    rng = np.random.default_rng(inputs)
    x = rng.normal(size=(*shape, inputs)).astype("float32")
    matrix = rng.normal(size=(inputs, outputs)).astype("float32")
    x, matrix = ops.cast(x, dtype), ops.cast(matrix, dtype)
    found = product(x, matrix)
    wanted = np.asarray(ops.cast(x, "float64")) @ np.asarray(ops.cast(matrix, "float64"))
    assert found.dtype == x.dtype
    tolerance = 1e-3 if dtype == "float32" else 0.02 * np.sqrt(inputs) * 3
    np.testing.assert_allclose(np.asarray(ops.cast(found, "float64")), wanted, atol=tolerance)


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_whose_number_is_not_known_while_tracing(rows: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 1, 384)).astype("float32")
    matrix = np.random.default_rng(1).normal(size=(384, 5)).astype("float32")
    layer = Dense(5, use_bias=False)
    layer.build((None, 384))
    layer.set_weights([matrix])
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, 1, 384))], jit_compile=True)
    found = traced(x)
    assert found.shape == (rows, 1, 5)
    np.testing.assert_allclose(found, x @ matrix, atol=1e-3)


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
