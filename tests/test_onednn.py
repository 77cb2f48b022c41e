"""oneDNN's products beside NumPy's, and when they are used."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import make_gpt, random_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_gpt import onednn
from keras_gpt.onednn import also_for_unknown_rows, product, takes, traced_for_xla


def can(dtype: str) -> bool:
    with traced_for_xla():
        return takes(1, dtype)


NEEDS = {
    dtype: pytest.mark.skipif(
        not can(dtype), reason=f"no instructions for {dtype}, or no oneDNN in this TensorFlow"
    )
    for dtype in ("int8", "bfloat16")
}


@pytest.fixture
def asked_anew():
    """What is found out once for a process is found out again, and again after the test."""
    onednn._works.cache_clear()
    yield
    onednn._works.cache_clear()


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
        with also_for_unknown_rows(False):
            assert not takes(None, "int8")
        with also_for_unknown_rows():
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


@pytest.mark.parametrize("missing", ["instructions", "call", "gpu", "wanted"])
def test_where_it_cannot_run_it_is_not_taken(asked_anew, monkeypatch, missing):
    def unknown(*_):
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


@pytest.mark.parametrize("kind", ["int8", "int4", "bfloat16"])
def test_a_model_answers_as_it_does_without(asked_anew, monkeypatch, kind):
    prompts = [list(random_ids(20, seed=row)) for row in range(6)]

    def answers():
        onednn._works.cache_clear()
        keras.utils.set_random_seed(0)
        gpt = make_gpt(dtype="bfloat16" if kind == "bfloat16" else "float32")
        if kind != "bfloat16":
            gpt.quantize(kind)
        return gpt.generate(prompts, max_new_tokens=8, temperature=0, details=True, logprobs=3)

    with_it = answers()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    atol = 0.1 if kind == "bfloat16" else 1e-4
    for found, wanted in zip(with_it, answers(), strict=True):
        np.testing.assert_allclose(found.logprobs[:1], wanted.logprobs[:1], atol=atol)
        if kind != "bfloat16":  # where two tokens may be as probable
            assert found.token_ids == wanted.token_ids
            np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=atol)
