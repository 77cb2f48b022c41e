"""int8 and int4 layers: near the floats that they stand for, exact in integers, few rows like many."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_gpt.generation.compiled import compiled_for_all
from keras_gpt.layers import Dense, TokenEmbedding
from keras_gpt.layers.integers import int4_product, int8_product, rounded, rounded_4, unpacked
from keras_gpt.onednn import traced_for_xla


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.floats(1e-20, 1e20), st.integers(0, 99))
def test_rounding_is_off_by_half_a_step_at_most(rows, columns, size, seed):
    matrix = values(rows, columns, seed=seed) * np.float32(size)
    integers, scale = rounded(matrix)
    assert integers.dtype == np.int8
    assert (np.abs(integers.astype(int)).max(axis=1) == 127).all()
    error = np.abs(integers * scale[:, None].astype("float64") - matrix)
    assert (error <= 0.5001 * scale[:, None]).all()


def by_xla(function):
    return tf.function(function, jit_compile=True)


# As a graph, as XLA compiles it for a user, and as decoding has it: by oneDNN, where that can.
WAYS = pytest.mark.parametrize("way", [tf.function, by_xla, compiled_for_all])


@WAYS
def test_a_row_of_zeros_stays_zero(way):
    integers, scale = rounded(np.zeros((2, 70), "float32"))
    assert not integers.any()
    assert (scale > 0).all()
    matrix = rounded(values(7, 70))
    run = way(lambda x: int8_product(x, *matrix))
    for rows in (1, 2, 9):
        np.testing.assert_array_equal(run(np.zeros((rows, 1, 70), "float32")), 0)


def reference(x, integers, scale):
    """The product of the floats and what the integers stand for."""
    return np.asarray(x, "float64") @ (integers.T * scale.astype("float64"))


def assert_is_product(got, x, integers, scale, rtol=1e-5):
    """Each input may be off by half of 1 / (127 * 254 * 254) of the largest in its row, and rounding."""
    weights = integers.T * scale
    x = np.asarray(keras.ops.cast(x, "float32"))
    atol = np.abs(x).max() * np.abs(weights).sum(axis=0).max() / (127 * 254 * 254)
    got = keras.ops.cast(got, "float32")
    np.testing.assert_allclose(got, reference(x, integers, scale), rtol=rtol, atol=atol)


ROWS = [(1, 1), (1, 5), (3, 1), (2, 9), (16, 1), (1, 80), (1,), (2,)]


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("outputs", [7, 29])
@WAYS
def test_the_product_is_that_of_the_integers(shape, dtype, outputs, way):
    integers, scale = rounded(values(outputs, 6))
    x = keras.ops.cast(values(*shape, 6, seed=1), dtype)
    got = way(lambda x: int8_product(x, integers, scale))(x)
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    assert_is_product(got, x, integers, scale, 1e-5 if dtype == "float32" else 0.01)


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (2, 1), (1, 3), (4, 1), (5, 1), (2, 16), (3, 11), (2, 32), (2, 40)],
)
@pytest.mark.parametrize("outputs", [7, 29])
@pytest.mark.parametrize("way", [by_xla, compiled_for_all])
def test_the_product_with_rows_that_only_the_run_knows(shape, outputs, way):
    integers, scale = rounded(values(outputs, 6))
    run = tf.function(
        way(lambda x: int8_product(x, integers, scale)),
        input_signature=[tf.TensorSpec([None, None, 6])],
    )
    x = values(*shape, 6)
    assert_is_product(run(x), x, integers, scale)


@pytest.mark.parametrize("columns", [40, 3072])
@pytest.mark.parametrize("way", [by_xla, compiled_for_all])
def test_a_row_hardly_depends_on_those_beside_it_though_one_input_is_far_larger(columns, way):
    integers, scale = rounded(values(50, columns))
    x = values(100, 1, columns, seed=2)
    x[:, :, 7] = 500  # as in real models; beside it 8 bits would leave nothing of the others
    run = way(lambda x: int8_product(x, integers, scale))
    want = reference(x, integers, scale)
    usual = np.abs(want - reference(x[:, :, 7:8], integers[:, 7:8], scale)).mean()
    for rows in (1, 2, 4, 5, 8, 32, 33, 100):  # one by one, as integers, as floats
        assert np.abs(run(x[:rows]) - want[:rows]).max() < 2e-4 * usual


@pytest.mark.parametrize("way", [by_xla, compiled_for_all])
def test_up_to_four_rows_are_computed_as_each_alone(way):
    integers, scale = rounded(values(50, 768))
    x = values(4, 1, 768, seed=2)
    run = way(lambda x: int8_product(x, integers, scale))
    alone = np.concatenate([run(x[row : row + 1]) for row in range(4)])
    for rows in (2, 3, 4):
        np.testing.assert_array_equal(run(x[:rows]), alone[:rows])


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_computes_with_its_rounded_kernel(bias):
    layer = Dense(7, use_bias=bias, bias_initializer="normal", activation="relu")
    x = values(4, 6)
    full = np.asarray(layer(x))
    layer.quantize("int8")
    integers, scale = np.asarray(layer._kernel), np.asarray(layer.kernel_scale)
    np.testing.assert_allclose(layer.kernel, (integers * scale[:, None]).T, rtol=1e-6)
    want = np.maximum(reference(x, integers, scale) + (layer.bias if bias else 0.0), 0)
    np.testing.assert_allclose(layer(x), want, atol=3e-4)
    assert np.abs(np.asarray(layer(x)) - full).max() < 0.1
    assert [w.dtype for w in layer.weights].count("int8") == 1


def test_lora_adds_to_an_int8_layer_and_gradients_reach_it():
    keras.utils.set_random_seed(0)
    layer = Dense(7)
    x = values(4, 6)
    layer.build((None, 6))
    layer.quantize("int8")
    before = np.asarray(layer(x))
    layer.enable_lora(2)
    np.testing.assert_allclose(layer(x), before, atol=1e-6)
    layer.lora_kernel_b.assign(values(2, 7, seed=2))
    want = x @ np.asarray(layer.kernel) + np.asarray(layer.bias)
    np.testing.assert_allclose(layer(x), want, atol=0.1)
    assert np.abs(np.asarray(layer(x)) - before).max() > 0.5
    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x))
    np.testing.assert_allclose(
        tape.gradient(loss, x), np.ones((4, 7)) @ np.asarray(layer.kernel).T, rtol=1e-4, atol=1e-5
    )
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert len(gradients) == len(layer.trainable_variables) >= 2
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_looks_up_and_projects_with_its_rounded_rows(tied):
    layer = TokenEmbedding(11, 6, tie_weights=tied)
    layer.build(None)
    if not tied:
        layer.reverse_embeddings.assign(values(6, 11, seed=3))
    x, ids = values(2, 1, 6), np.array([[3, 10]])
    rows, logits = np.asarray(layer(ids)), np.asarray(layer(x, reverse=True))
    step = np.abs(np.asarray(layer.embeddings)).max() / 127
    layer.quantize("int8")
    np.testing.assert_allclose(layer(ids), rows, atol=step)
    np.testing.assert_allclose(layer(x, reverse=True), logits, atol=0.1)
    if tied:  # one set of integers for both
        eye = np.eye(6, dtype="float32")
        # The largest of a unit vector is 1, which no rounding changes.
        np.testing.assert_allclose(
            np.asarray(layer(eye, reverse=True)).T, layer(np.arange(11)), rtol=1e-5
        )


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("first", ["lora", "integers"])
def test_lora_adds_to_a_rounded_embedding(mode, tied, first):
    layer = TokenEmbedding(11, 64, tie_weights=tied)
    layer.build(None)
    x, ids = values(2, 1, 64), np.array([[3, 10]])
    for step in (first, *{"lora", "integers"} - {first}):
        if step == "integers":
            layer.quantize(mode)
            continue
        before = np.asarray(layer(ids)), np.asarray(layer(x, reverse=True))
        layer.enable_lora(2)
        a, b = values(11, 2, seed=3), values(2, 64, seed=4)
        layer.lora_embeddings_a.assign(a)
        layer.lora_embeddings_b.assign(b)
    added = layer.lora_alpha / layer.lora_rank * a @ b  # (ids, width)
    np.testing.assert_allclose(layer(ids) - before[0], added[ids], atol=0.02)
    np.testing.assert_allclose(
        layer(x, reverse=True) - before[1], x @ added.T if tied else 0, atol=0.4
    )


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_layer_built_of_integers_takes_floats(mode):
    matrix = values(70, 7)
    rounded_later, rounded_at_once = Dense(7), Dense(7, dtype=f"{mode}_from_float32")
    for layer in (rounded_later, rounded_at_once):
        layer.build((None, 70))
    rounded_later._kernel.assign(matrix.T)
    rounded_later.quantize(mode)
    assert not np.asarray(rounded_at_once.kernel).any()
    rounded_at_once.keep("kernel", matrix)
    for a, b in zip(rounded_later.weights, rounded_at_once.weights, strict=True):
        assert (a.name, a.dtype) == (b.name, b.dtype) or "bias" in (a.name, b.name)
    np.testing.assert_array_equal(rounded_later.kernel, rounded_at_once.kernel)
    x = values(3, 70)
    np.testing.assert_array_equal(rounded_later(x), rounded_at_once(x))


def test_rounding_does_not_add_lora_weights_a_second_time():
    layer = Dense(7, use_bias=False)
    layer.build((None, 6))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(values(2, 7, seed=2))
    full = np.asarray(layer.kernel)
    layer.quantize("int8")
    np.testing.assert_allclose(layer.kernel, full, atol=np.abs(full).max() / 100)


def test_other_modes_are_those_of_keras():
    layer = Dense(8)
    x = values(4, 16)
    full = np.asarray(layer(x))
    layer.quantize("float8")
    assert layer.quantization_mode == "float8"
    assert np.abs(np.asarray(layer(x)) - full).mean() < 0.2


# -- 4 bits -------------------------------------------------------------------------------------------


def integers_of(packed, multipliers, offsets, columns):
    """What the bytes stand for, one integer at a time."""
    rows, width = packed.shape
    out = np.zeros((rows, 2 * width), int)
    for row in range(rows):
        for place in range(2 * width):
            byte = int(packed[row, place % width]) & 0xFF
            four = byte & 0xF if place < width else byte >> 4
            group = place // 32
            out[row, place] = four * int(multipliers[row, group]) + int(offsets[row, group])
    return out[:, :columns]


@pytest.mark.parametrize("columns", [1, 32, 40, 64, 100, 192])
def test_4_bits_are_near_the_matrix_and_are_unpacked_exactly(columns):
    matrix = values(9, columns)
    *stored, scale = rounded_4(matrix)
    assert all(each.dtype == np.int8 for each in stored)
    integers = integers_of(*stored, columns)
    assert np.abs(integers).max() <= 127  # what 8 bits hold
    np.testing.assert_array_equal(unpacked(*stored, columns), integers)
    error = integers * scale[:, None] - matrix
    assert np.sqrt((error**2).mean()) < 0.1 * matrix.std()


def test_a_group_of_small_weights_keeps_its_own_step():
    matrix = values(5, 128)
    matrix[:, :32] *= 0.1
    *stored, scale = rounded_4(matrix)
    error = np.asarray(unpacked(*stored, 128)) * scale[:, None] - matrix
    assert np.sqrt((error[:, :32] ** 2).mean()) < 0.2 * matrix[:, :32].std()


@pytest.mark.parametrize("round_", [rounded, rounded_4])
def test_rows_do_not_depend_on_the_rows_beside_them(round_):
    at_once = 2**20 // 70
    matrix = values(at_once + 9, 70)  # more rows than are rounded at once
    matrix[7] = 0
    together = round_(matrix)
    for row in (0, 7, at_once - 1, at_once, len(matrix) - 1):
        for a, b in zip(round_(matrix[row : row + 1]), together, strict=True):
            np.testing.assert_array_equal(a[0], b[row])
    if round_ is rounded_4:
        assert (np.asarray(unpacked(*(each[:8] for each in together[:3]), 70))[7] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 1), (16, 1), (1, 80), (2,)])
@pytest.mark.parametrize("columns", [70, 128])
@WAYS
def test_the_4_bit_product_is_that_of_its_integers(shape, columns, way):
    stored = rounded_4(values(7, columns))
    x = values(*shape, columns, seed=1)
    got = way(lambda x: int4_product(x, *stored))(x)
    assert_is_product(got, x, integers_of(*stored[:3], columns), stored[3])


@pytest.mark.parametrize("way", [by_xla, compiled_for_all])
def test_a_row_of_a_4_bit_product_is_the_same_to_the_bit_whatever_stands_beside_it(way):
    stored = rounded_4(values(50, 70))
    x = values(8, 1, 70, seed=2)
    run = way(lambda x: int4_product(x, *stored))
    together = np.asarray(run(x))
    for row in range(8):
        np.testing.assert_array_equal(run(x[row : row + 1])[0], together[row])


def test_a_4_bit_dense_layer_takes_an_eighth_of_float32_and_trains_lora():
    keras.utils.set_random_seed(0)
    layer = Dense(48, use_bias=False)
    layer.build((None, 192))
    full = np.asarray(layer.kernel)
    layer.quantize("int4")
    stored = sum(np.asarray(w).nbytes for w in layer.weights)
    assert stored == 48 * (192 // 2 + 2 * 192 // 32 + 4)
    kernel = np.asarray(layer.kernel)
    np.testing.assert_allclose(
        kernel.T,
        integers_of(*[np.asarray(w) for w in layer.weights[:3]], 192)
        * np.asarray(layer.kernel_scale)[:, None],
        rtol=1e-6,
    )
    assert np.abs(kernel - full).mean() < 0.1 * np.abs(full).mean()
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(values(2, 48, seed=2))
    x = tf.constant(values(4, 192))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x))
    np.testing.assert_allclose(layer(x), x @ np.asarray(layer.kernel), atol=0.5)
    want = np.ones((4, 48)) @ np.asarray(layer.kernel).T
    np.testing.assert_allclose(tape.gradient(loss, x), want, rtol=1e-3, atol=1e-3)
    assert all(g is not None for g in tape.gradient(loss, layer.trainable_variables))


@pytest.mark.parametrize("tied", [True, False])
def test_a_4_bit_embedding_looks_up_and_projects(tied):
    layer = TokenEmbedding(11, 70, tie_weights=tied)
    layer.build(None)
    if not tied:
        layer.reverse_embeddings.assign(values(70, 11, seed=3))
    layer.quantize("int4")

    def stored(integers, name):
        kinds = [getattr(layer, f"{name}_{kind}") for kind in ("multipliers", "offsets", "scale")]
        return [np.asarray(each) for each in (integers, *kinds)]

    *rows, scale = stored(layer._embeddings, "embeddings")
    ids, rows = np.array([[3, 10, 3]]), integers_of(*rows, 70)
    np.testing.assert_allclose(layer(ids), (rows * scale[:, None])[ids], rtol=1e-6)
    if not tied:
        *rows, scale = stored(layer.reverse_embeddings, "reverse_embeddings")
        rows = integers_of(*rows, 70)
    x = values(2, 1, 70)
    assert_is_product(layer(x, reverse=True), x, rows, scale)


def test_a_dense_layer_of_floats_is_that_of_keras():
    """The same numbers from a seed, the same penalty and constraint, and the same file."""
    arguments = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
        "kernel_regularizer": keras.regularizers.OrthogonalRegularizer(0.1, mode="rows"),
        "kernel_constraint": keras.constraints.MaxNorm(0.5, axis=0),
    }
    ours, theirs = Dense(7, **arguments), keras.layers.Dense(7, **arguments)
    for layer in (ours, theirs):
        layer.build((None, 5))
    assert tuple(ours._kernel.shape) == (7, 5)  # what decoding is faster with
    np.testing.assert_array_equal(ours.kernel, theirs.kernel)
    np.testing.assert_allclose(ours.losses[0], theirs.losses[0], rtol=1e-5)
    constrained = ours._kernel.constraint(ours._kernel)
    np.testing.assert_allclose(
        np.transpose(constrained), theirs._kernel.constraint(theirs._kernel), rtol=1e-6
    )
    x = values(3, 5)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5)
    again = Dense.from_config(ours.get_config())
    again.build((None, 5))
    np.testing.assert_allclose(again.losses[0], ours.losses[0], rtol=1e-5)


@pytest.mark.parametrize("rank", [None, 2])
def test_files_of_a_dense_layer_are_those_of_keras(rank):
    ours, theirs, again = Dense(5), keras.layers.Dense(5), Dense(5)
    for layer in (ours, theirs, again):
        layer.build((None, 5))  # square, so that a mistaken order would not be noticed by its shape
    if rank is not None:
        ours.enable_lora(rank)
        ours.lora_kernel_b.assign(values(rank, 5, seed=2))
    x, store = values(3, 5), {}
    ours.save_own_variables(store)
    stored = {key: np.asarray(value) for key, value in store.items()}
    theirs.load_own_variables(stored)
    again.load_own_variables(stored)
    for layer in (theirs, again):
        np.testing.assert_allclose(layer(x), ours(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("rows", [2, 8, 40])
def test_a_row_that_is_no_number_leaves_the_others_alone(mode: str, rows: int) -> None:
    layer = Dense(384, use_bias=False)
    layer.build((None, 320))
    layer.quantize(mode)

    def run(x: tf.Tensor) -> tf.Tensor:
        with traced_for_xla():
            return layer(x)

    program = tf.function(run, jit_compile=True, autograph=False)
    x = np.random.default_rng(0).normal(size=(rows, 320)).astype("float32")
    want = program(tf.constant(x)).numpy()
    x[0, 0] = np.nan
    found = program(tf.constant(x)).numpy()
    np.testing.assert_array_equal(found[1:], want[1:])
