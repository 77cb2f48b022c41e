"""oneDNN's products beside NumPy's, and when they are used."""

import os
import threading
from contextlib import AbstractContextManager, nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import make_gpt, random_ids
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_gpt import onednn
from keras_gpt.generation.compiled import compiled_for_all
from keras_gpt.layers import few_rows
from keras_gpt.layers.integers import int4_product, int8_product, rounded, rounded_4, unpacked
from keras_gpt.onednn import (
    product,
    reordered,
    takes,
    takes_reordered,
    traced_for_server,
    traced_for_xla,
)


def can(dtype: str) -> bool:
    with traced_for_xla():
        return takes(1, dtype)


NEEDS = {
    dtype: pytest.mark.skipif(
        not can(dtype), reason=f"no instructions for {dtype}, or no oneDNN in this TensorFlow"
    )
    for dtype in ("int8", "bfloat16")
}


def for_server(dtype: str) -> AbstractContextManager[None]:
    """Trace for a server such as this machine: without the instructions the call may end the process."""
    return traced_for_server() if can(dtype) else nullcontext()


@pytest.fixture
def asked_anew():
    """What is found out once for a process is found out again, and again after the test."""

    def forget():
        onednn._works.cache_clear()
        takes_reordered.cache_clear()

    forget()
    yield forget
    forget()


@NEEDS["int8"]
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 130), st.integers(0, 9))
def test_sums_of_integers_are_exact(rows, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (rows, inputs), "int8")
    matrix = rng.integers(-128, 128, (outputs, inputs), "int8")
    found = tf.function(product, jit_compile=True)(x, matrix)
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, x.astype(int) @ matrix.T.astype(int))


@NEEDS["int8"]
def test_the_largest_sums_are_exact():
    x, matrix = np.full((3, 6144), -128, "int8"), np.full((5, 6144), -128, "int8")
    found = tf.function(product, jit_compile=True)(x, matrix)
    np.testing.assert_array_equal(found, np.full((3, 5), 6144 * 128 * 128))


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        pytest.param("int8", 128, marks=NEEDS["int8"]),
        pytest.param("bfloat16", 16, marks=NEEDS["bfloat16"]),
    ],
)
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.integers(0, 200), st.integers(0, 9))
def test_a_copy_in_onednn_s_own_order_gives_the_same(dtype, most, rows, inputs, more, seed):
    outputs = 64 * (os.cpu_count() or 1) + more  # with fewer it takes another order
    assume(takes_reordered(rows, outputs, inputs, dtype))
    rng = np.random.default_rng(seed)
    x, matrix = (rng.integers(-most, most, (each, inputs), "int8") for each in (rows, outputs))
    numbers = [array.astype(tf.as_dtype(dtype).as_numpy_dtype) for array in (x, matrix)]
    found = tf.function(product, jit_compile=True)(*numbers, reordered(numbers[1]))
    np.testing.assert_array_equal(found, x.astype(int) @ matrix.T.astype(int))


@NEEDS["int8"]
def test_no_copy_is_read_where_onednn_has_another_order(asked_anew, monkeypatch):
    real = onednn.reordered
    monkeypatch.setattr(onednn, "reordered", lambda matrix: real(matrix)[::-1].copy())
    assert not takes_reordered(24, 4096, 64, "int8")


@NEEDS["int8"]
def test_no_copy_is_read_where_threads_are_more_than_blocks(asked_anew, monkeypatch):
    monkeypatch.setattr(onednn.os, "cpu_count", lambda: 64)  # oneDNN takes smaller blocks then
    assert not takes_reordered(24, 64 * 64 - 1, 64, "int8")


@NEEDS["bfloat16"]
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 130), st.integers(0, 9))
def test_products_of_bfloat16_are_summed_as_float32(rows, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    x = tf.cast(rng.normal(size=(rows, inputs)), tf.bfloat16)
    matrix = tf.cast(rng.normal(size=(outputs, inputs)), tf.bfloat16)
    found = tf.function(product, jit_compile=True)(x, matrix)
    assert found.dtype == tf.float32
    wanted = np.asarray(tf.cast(x, "float64")) @ np.asarray(tf.cast(matrix, "float64")).T
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@NEEDS["int8"]
def test_rows_whose_number_only_the_compiler_knows():
    rng = np.random.default_rng(0)
    matrix = rng.integers(-128, 128, (5, 40), "int8")
    specs = [tf.TensorSpec([None, 40], tf.int8), tf.TensorSpec([5, 40], tf.int8)]
    with traced_for_xla():
        assert not takes(None, "int8")
        with traced_for_server():
            assert takes(None, "int8")
            run = tf.function(product, input_signature=specs, jit_compile=True)
            run.get_concrete_function()
        assert not takes(None, "int8")
    for rows in (1, 7, 8, 9, 64, 300):
        x = rng.integers(-128, 128, (rows, 40), "int8")
        np.testing.assert_array_equal(run(x, matrix), x.astype(int) @ matrix.T.astype(int))


@NEEDS["int8"]
def test_only_what_is_traced_for_xla_with_known_rows_takes_it():
    assert not takes(8, "int8")
    with traced_for_xla():
        with traced_for_xla():
            pass
        assert takes(8, "int8")
        assert not takes(None, "int8")
        assert not takes(8, "float32")
        of_another_thread = []
        thread = threading.Thread(target=lambda: of_another_thread.append(takes(8, "int8")))
        thread.start()
        thread.join()
    assert of_another_thread == [False]
    assert not takes(8, "int8")


@NEEDS["int8"]
@pytest.mark.parametrize("missing", ["instructions", "call", "gpu", "wanted"])
def test_where_it_cannot_run_it_is_not_taken(asked_anew, monkeypatch, missing):
    def unknown(*_, **__):
        raise tf.errors.UnimplementedError(None, None, "no such custom call")

    if missing == "instructions":
        monkeypatch.setattr(onednn, "instructions", lambda: frozenset({"avx2"}))
    elif missing == "call":
        monkeypatch.setattr(onednn, "product", unknown)
    elif missing == "gpu":
        monkeypatch.setattr(onednn, "is_on_cpu", lambda: False)
    else:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not can("int8")
    assert not can("bfloat16")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=NEEDS[kind.replace("4", "8")])
        for kind in ("int8", "int4", "bfloat16")
    ],
)
def test_a_model_answers_as_it_does_without(asked_anew, monkeypatch, kind):
    prompts = [list(random_ids(20, seed=row)) for row in range(6)]
    calls = []
    real = onednn.product

    def counted(x, matrix, copy=None):
        calls.append(x.shape[0])
        return real(x, matrix, copy)

    monkeypatch.setattr(onednn, "product", counted)

    def answers():
        asked_anew()
        keras.utils.set_random_seed(0)
        gpt = make_gpt(dtype="bfloat16" if kind == "bfloat16" else "float32")
        if kind != "bfloat16":
            gpt.quantize(kind)
        calls.clear()
        return gpt.generate(prompts, max_new_tokens=8, temperature=0, details=True, logprobs=3)

    with_it = answers()
    # Rows of steps, and of prompts; of int8 three integers each.
    assert set(calls) >= ({8, 8 * 32} if kind == "bfloat16" else {3 * 8, 3 * 8 * 32})
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    atol = 0.1 if kind == "bfloat16" else 1e-4
    for found, wanted in zip(with_it, answers(), strict=True):
        np.testing.assert_allclose(found.logprobs[:1], wanted.logprobs[:1], atol=atol)
        if kind != "bfloat16":  # where two tokens may be as probable
            assert found.token_ids == wanted.token_ids
            np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=atol)
    assert not calls


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_integers_of_rows_that_only_the_compiler_knows(kind):
    matrix = np.random.default_rng(0).normal(size=(5, 70)).astype("float32")
    if kind == "int8":
        stored = rounded(matrix)
        multiply, integers = int8_product, stored[0]
    else:
        stored = rounded_4(matrix)
        multiply, integers = int4_product, np.asarray(unpacked(*stored[:3], 70))
    weights = integers.T * stored[-1].astype("float64")
    spec = tf.TensorSpec([None, 1, 70], tf.float32)
    with traced_for_xla(), for_server("int8"):
        run = tf.function(lambda x: multiply(x, *stored), input_signature=[spec], jit_compile=True)
        run.get_concrete_function()
    for rows in (1, 2, 5, 33, 1024, 1025):  # the last ones more than oneDNN is given
        x = np.random.default_rng(rows).normal(size=(rows, 1, 70)).astype("float32")
        np.testing.assert_allclose(run(x), x.astype("float64") @ weights, atol=1e-4)


def test_bfloat16_of_rows_that_only_the_compiler_knows():
    rng = np.random.default_rng(0)
    matrix = tf.cast(rng.normal(size=(5, 70)), tf.bfloat16)
    spec = tf.TensorSpec([None, None, 70], tf.bfloat16)
    with traced_for_xla(), for_server("bfloat16"):
        run = tf.function(
            lambda x: few_rows.product(x, matrix), input_signature=[spec], jit_compile=True
        )
        run.get_concrete_function()
    wide = np.asarray(tf.cast(matrix, "float64")).T
    for shape in ((1, 1), (5, 1), (3, 30)):
        x = tf.cast(rng.normal(size=(*shape, 70)), tf.bfloat16)
        wanted = np.asarray(tf.cast(x, "float64")) @ wide
        np.testing.assert_allclose(tf.cast(run(x), "float64"), wanted, atol=0.2)


def test_bfloat16_keeps_its_gradient():
    rng = np.random.default_rng(0)
    x = tf.cast(rng.normal(size=(6, 8)), tf.bfloat16)
    matrix = tf.Variable(tf.cast(rng.normal(size=(5, 8)), tf.bfloat16))
    gradients = []
    for way in (compiled_for_all, tf.function):
        run = way(lambda x, matrix: few_rows.product(x, matrix))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(run(x, tf.convert_to_tensor(matrix)) ** 2)
        gradients.append(tape.gradient(loss, [x, matrix]))
    for found, wanted in zip(*gradients, strict=True):
        np.testing.assert_allclose(
            tf.cast(found, "float32"), tf.cast(wanted, "float32"), rtol=0.05, atol=0.5
        )


@NEEDS["int8"]
def test_functions_that_run_eagerly_do_without():
    matrix = rounded(np.random.default_rng(0).normal(size=(5, 8)).astype("float32"))
    x = np.random.default_rng(1).normal(size=(6, 8)).astype("float32")
    run = compiled_for_all(lambda x: int8_product(x, *matrix))
    wanted = run(x)
    tf.config.run_functions_eagerly(True)
    try:
        found = run(x)
    finally:
        tf.config.run_functions_eagerly(False)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
