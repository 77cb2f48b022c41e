"""What a loop that XLA compiles makes of layers' matrices: what it widens, it widens in each turn.

XLA would take what a loop does to its constants out of the loop: it would keep each matrix as float32
beside it, and read two or four times as much in each turn.
"""

import re
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import onednn
from keras_gpt.layers.quantized import Dense, TokenEmbedding
from keras_gpt.onednn import traced_for_xla

TURNS = 3
# The matrix of the tests, as it is, turned, and as one row reads it, from eight places.
MATRIX = "|".join(
    ",".join(order)
    for shape in (("384", "320"), ("8", "48", "320"))
    for order in permutations(shape)
)
WIDE = rf"f32\[({MATRIX})\]"
# Integers of any shape (those of 4 bits are unpacked), or a matrix, that something before the loop makes.
MADE = (
    r"= (s8\[\S+ fusion"
    rf"|(s8|s16|u16|bf16|f16)\[({MATRIX}|384,160)\]\S* (fusion|copy|convert|call|transpose)\()"
)


def looped(turn: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor) -> tuple[tf.Tensor, str]:
    """Give what some turns make of `start`, and what the compiled program does outside of the loop."""

    def turns(x: tf.Tensor) -> tf.Tensor:
        with traced_for_xla():
            return tf.while_loop(
                lambda place, x: place < TURNS, lambda place, x: (place + 1, turn(x)), (0, x)
            )[1]

    program = tf.function(turns, jit_compile=True, autograph=False)
    compiled = program.experimental_get_compiler_ir(start)(stage="optimized_hlo")
    outside = compiled[compiled.index("ENTRY") :]
    assert "while(" in outside
    return program(start), outside


def unlooped(turn: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    for _ in range(TURNS):
        x = turn(x)
    return x


@pytest.fixture(params=[True, False], ids=["onednn", "xla"], autouse=True)
def may_call_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(onednn, "takes", lambda rows, dtype: False)


@pytest.mark.parametrize("mode", ["int8", "int4", "bfloat16", "float16"])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_a_product(mode: str, rows: int) -> None:
    is_half = mode.endswith("float16")
    layer = Dense(384, use_bias=False, dtype=mode if is_half else "float32")
    layer.build((None, 320))
    if not is_half:
        layer.quantize(mode)

    def turn(x: tf.Tensor) -> tf.Tensor:
        return layer(x)[:, :320]

    x = np.random.default_rng(0).normal(size=(rows, 320))
    start = tf.constant(x, layer.compute_dtype)
    found, outside = looped(turn, start)
    assert not re.search(WIDE, outside)
    assert not re.search(MADE, outside)
    wanted = unlooped(turn, start)
    tolerance = 0.05 if is_half else 1e-5
    np.testing.assert_allclose(
        tf.cast(found, "float64"), tf.cast(wanted, "float64"), atol=tolerance
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_of_half_precision(dtype: str, rows: int, tied: bool) -> None:
    layer = TokenEmbedding(
        384, 320, embeddings_initializer="random_normal", tie_weights=tied, dtype=dtype
    )
    layer.build()

    def turn(ids: tf.Tensor) -> tf.Tensor:
        states = layer(ids)
        following = tf.cast(tf.argmax(layer(states, reverse=True), axis=-1), "int32")
        return (following + ids + 1) % 384

    start = tf.range(rows)
    found, outside = looped(turn, start)
    assert not re.search(WIDE, outside)
    assert not re.search(MADE, outside)
    np.testing.assert_array_equal(found, unlooped(turn, start))
