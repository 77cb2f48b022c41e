"""The choice of a token: kept sets, frequencies, and the random numbers underneath."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from keras_gpt.generation.random import row_keys, uniforms
from keras_gpt.generation.sampling import Sampling, choose, keep_probable


def settings_of(count, temperature=1.0, top_k=0, top_p=1.0, seeds=None, sequence=0):
    def vector(value, dtype):
        return keras.ops.convert_to_tensor(np.broadcast_to(value, (count,)).astype(dtype))

    return Sampling(
        vector(temperature, "float32"),
        vector(top_k, "int32"),
        vector(top_p, "float32"),
        vector(0.0, "float32"),
        vector(1.0, "float32"),
        vector(np.arange(count) if seeds is None else seeds, "int32"),
        vector(sequence, "int32"),
    )


def draws(logits, count=40_000, step=0, **settings):
    rows = np.broadcast_to(np.asarray(logits, "float32"), (count, len(logits)))
    return np.asarray(
        choose(keras.ops.convert_to_tensor(rows), settings_of(count, **settings), step)
    )


def softmax(x):
    x = np.exp(np.asarray(x, "float64") - np.max(x))
    return x / x.sum()


def kept_by_sorting(logits, top_k, top_p):
    """The tokens that stay, by sorting; tokens as large as the last one stay too."""
    logits = np.asarray(logits, "float64")
    if top_k:
        logits = np.where(logits >= np.sort(logits)[::-1][top_k - 1], logits, -np.inf)
    keep = np.isfinite(logits)
    if top_p < 1:
        p = softmax(logits)
        order = np.argsort(-p, kind="stable")
        last = np.searchsorted(np.cumsum(p[order]), top_p)  # the first whose sum reaches top_p
        keep &= logits >= logits[order[min(last, len(p) - 1)]]
    return keep


LOGITS = np.array([2.0, 1.5, 1.5, 0.3, 0.0, -0.7, -1.0, -1.0, -3.0, -4.0, 1.0, 0.9])


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1.6, 5, 1.0),
        (1.0, 2, 1.0),  # ties for the second place
        (1.0, 0, 0.8),
        (0.9, 7, 0.75),
    ],
)
def test_frequencies_are_those_of_softmax_over_the_kept(temperature, top_k, top_p):
    scaled = LOGITS / temperature
    keep = kept_by_sorting(scaled, top_k, top_p)
    p = softmax(np.where(keep, scaled, -np.inf))
    counts = np.bincount(
        draws(LOGITS, temperature=temperature, top_k=top_k, top_p=top_p), minlength=len(LOGITS)
    )
    assert not counts[~keep].any()
    assert stats.chisquare(counts[keep], p[keep] * counts.sum()).pvalue > 1e-3


def test_the_second_of_two_sequences_and_later_steps_are_as_good():
    p = softmax(LOGITS)
    tokens = [draws(LOGITS, sequence=1), draws(LOGITS, step=5), draws(LOGITS)]
    for drawn in tokens:
        counts = np.bincount(drawn, minlength=len(p))
        assert stats.chisquare(counts, p * counts.sum()).pvalue > 1e-3
    # Independent of each other: the table of pairs is the product of its margins.
    for a, b in ((0, 1), (0, 2), (1, 2)):
        table = np.histogram2d(tokens[a], tokens[b], bins=[range(13), range(13)])[0]
        large = p > 0.02
        assert stats.chi2_contingency(table[large][:, large]).pvalue > 1e-3


def test_improbable_tokens_get_their_share():
    # 4000 tokens of 2.5e-6 beside one of 0.99: 1 % together.
    logits = np.concatenate([[np.log(0.99)], np.full(4000, np.log(0.01 / 4000))])
    rare = sum(
        (draws(logits, 2000, seeds=np.arange(start, start + 2000)) > 0).sum()
        for start in range(0, 16_000, 2000)
    )
    assert 160 - 4 * 12.6 < rare < 160 + 4 * 12.6


def test_temperature_zero_and_top_k_one_are_argmax():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 50)).astype("float32")
    best = logits.argmax(-1)
    for settings in (
        settings_of(64, temperature=0.0),
        settings_of(64, temperature=0.0, top_k=3, top_p=0.5),
        settings_of(64, top_k=1),
        settings_of(64, top_p=1e-6),
        settings_of(64, temperature=1e-4),
        settings_of(64, temperature=1e-38),
        settings_of(64, temperature=1e-44),
    ):
        np.testing.assert_array_equal(choose(logits, settings, 3), best)
    # The first of equals, as argmax.
    assert int(choose(np.ones((1, 5), "float32"), settings_of(1, temperature=0.0), 0)[0]) == 0


def test_each_row_has_its_own_settings():
    rows = np.broadcast_to(LOGITS.astype("float32"), (4, len(LOGITS)))
    own = Sampling(
        *[
            keras.ops.convert_to_tensor(np.array(values, dtype))
            for values, dtype in (
                ([0.0, 1.0, 1.0, 2.0], "float32"),
                ([0, 1, 0, 4], "int32"),
                ([1.0, 1.0, 0.9, 1.0], "float32"),
                ([0.0, 0.0, 0.1, 0.2], "float32"),
                ([1.0, 0.5, 1.0, 0.9], "float32"),
                ([9, 9, 9, 9], "int32"),
                ([0, 0, 0, 1], "int32"),
            )
        ]
    )
    together = np.asarray(choose(rows, own, 2))
    for i in range(4):
        alone = Sampling(*[setting[i : i + 1] for setting in own])
        assert int(choose(rows[:1], alone, 2)[0]) == together[i]
    assert (together[:2] == 0).all()


def test_a_huge_temperature_is_uniform():
    counts = np.bincount(draws(LOGITS, temperature=1e30), minlength=len(LOGITS))
    assert stats.chisquare(counts).pvalue > 1e-3


finite = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 3.5]),
    st.floats(-32, 32, width=32, allow_subnormal=False),
    st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
)


@given(
    hnp.arrays("float32", st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=finite),
    st.integers(0, 9),
    st.one_of(st.just(1.0), st.floats(0.01, 0.99)),
)
def test_keep_probable_is_sorting(logits, top_k, top_p):
    count, vocab = logits.shape
    top_k = min(top_k, vocab)
    for row in logits:
        # Where a sum of probabilities all but equals top_p, rounding decides.
        p = softmax(np.where(kept_by_sorting(row, top_k, 1.0), row, -np.inf))
        if top_p < 1 and np.abs(np.cumsum(np.sort(p)[::-1]) - top_p).min() < 1e-5:
            return
    got = np.asarray(
        keep_probable(
            keras.ops.convert_to_tensor(logits),
            keras.ops.full((count,), top_k, dtype="int32"),
            keras.ops.full((count,), top_p, dtype="float32"),
        )
    )
    for i, row in enumerate(logits):
        keep = kept_by_sorting(row, top_k, top_p)
        np.testing.assert_array_equal(np.isfinite(got[i]), keep)
        np.testing.assert_array_equal(got[i][keep], row[keep])


@pytest.fixture(scope="module")
def numbers():
    keys = row_keys(keras.ops.arange(2000, dtype="int32"), keras.ops.zeros(2000, dtype="int32"), 0)
    return np.asarray(uniforms(keys, 4096), "float64")


def test_uniforms_are_strictly_between_0_and_1():
    # 2^27 numbers: eight times as many as a float32 has values from 1/2 to 1.
    for start in range(0, 2**14, 2**11):
        seeds = keras.ops.arange(start, start + 2**11, dtype="int32")
        drawn = np.asarray(uniforms(row_keys(seeds, seeds * 0, 0), 2**13))
        assert drawn.dtype == "float32"
        assert drawn.min() > 0.0
        assert drawn.max() < 1.0


def test_uniforms_have_the_moments_of_uniform_numbers(numbers):
    n = numbers.size
    flat = numbers.ravel()
    assert abs(flat.mean() - 0.5) < 5 / np.sqrt(12 * n)
    assert abs(flat.var() - 1 / 12) < 5 / np.sqrt(180 * n)
    counts = np.histogram(flat, bins=1024, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3
    # Each row, and each column, by itself.
    for axis in (0, 1):
        size = numbers.shape[axis]
        z = (numbers.mean(axis) - 0.5) * np.sqrt(12 * size)
        assert np.abs(z).max() < 5.5
        assert stats.kstest(z, "norm").pvalue > 1e-4


def test_uniforms_are_not_correlated(numbers):
    centred = numbers - 0.5

    def correlation(a, b):
        return 12 * (a * b).mean() * np.sqrt(a.size)  # about normal(0, 1)

    for lag in (1, 2, 3, 16, 1024):
        assert abs(correlation(centred[:, lag:], centred[:, :-lag])) < 5  # along a row
        assert abs(correlation(centred[lag:], centred[:-lag])) < 5  # neighbouring seeds
    for by in (1, 7):  # the next seed, shifted
        assert abs(correlation(centred[1:, by:], centred[:-1, :-by])) < 5
        assert abs(correlation(centred[1:, :-by], centred[:-1, by:])) < 5


def test_keys_differ_by_seed_sequence_and_step():
    keys = set()
    seeds = keras.ops.arange(100, dtype="int32")
    for sequence in range(10):
        for step in range(20):
            keys |= set(np.asarray(row_keys(seeds, seeds * 0 + sequence, step)).tolist())
    # 20,000 draws from 2^32: 0.05 coincidences are expected.
    assert len(keys) >= 100 * 10 * 20 - 1
    one = [
        np.asarray(uniforms(row_keys(seeds[:1] + s, seeds[:1] * 0 + q, t), 4096))[0] - 0.5
        for s, q, t in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1))
    ]
    table = np.corrcoef(one)
    assert np.abs(table - np.eye(6)).max() < 5 / 64


def test_numbers_are_the_same_in_graph_and_xla():
    import tensorflow as tf

    def function(seeds):
        return uniforms(row_keys(seeds, seeds + 1, 7), 64)

    seeds = keras.ops.arange(5, dtype="int32") * 123456789
    want = np.asarray(function(seeds))
    for jit in (False, True):
        np.testing.assert_array_equal(tf.function(function, jit_compile=jit)(seeds), want)
