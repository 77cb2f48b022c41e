"""Biases, penalties, bans and cut-offs: against plain numpy and transformers' processors."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_gpt.generation.processors import (
    TokenCounts,
    add_bias,
    add_token,
    ban_repeated_ngrams,
    bias_rows,
    count_tokens,
    hold_back,
    keep_min_p,
    keep_typical,
    penalize,
)

VOCAB = 40
INFINITY = np.float32("inf")


def tensor(values, dtype):
    return keras.ops.convert_to_tensor(np.asarray(values, dtype))


def floats(*values):
    return tensor(values, "float32")


def ints(*values):
    return tensor(values, "int32")


def random_logits(count, vocab_size=VOCAB, seed=0):
    return np.random.default_rng(seed).normal(0, 3, (count, vocab_size)).astype("float32")


def padded(rows, time=None):
    """Rows of ids as (batch, time), padded with ids that must have no effect, and their lengths."""
    ids = np.full((len(rows), time or max(1, *map(len, rows))), 1, "int32")
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
    return tensor(ids, "int32"), ints(*map(len, rows))


# The same in plain numpy and Python, for one row.


def bincount(row, vocab_size=VOCAB):
    return np.bincount(np.asarray(row, int), minlength=vocab_size)[:vocab_size]


def penalized(logits, prompt, new, repetition, presence, frequency):
    logits = logits.astype("float64")
    counts = bincount(new, len(logits))
    for token in {*prompt, *new}:
        logits[token] *= repetition if logits[token] < 0 else 1 / repetition
    return logits - counts * frequency - (counts > 0) * presence


def banned_by_ngrams(row, size):
    grams = [tuple(row[i : i + size]) for i in range(len(row) - size + 1)] if size else []
    ending = tuple(row[len(row) - size + 1 :])
    return {gram[-1] for gram in grams if gram[:-1] == ending}


def min_p_kept(logits, min_p):
    p = np.exp(logits.astype("float64") - logits.max())
    return (p >= min_p) & np.isfinite(logits)


def typical_kept(logits, typical_p):
    """The tokens that stay, and how near the sum of any closest ones comes to `typical_p`."""
    logits = logits.astype("float64")
    log_p = logits - logits.max()
    log_p -= np.log(np.exp(log_p).sum())
    finite = np.isfinite(log_p)
    entropy = -(np.exp(log_p[finite]) * log_p[finite]).sum()
    distances = np.abs(-log_p - entropy)
    order = np.argsort(distances, kind="stable")
    sums = np.cumsum(np.exp(log_p[order]))
    last = np.searchsorted(sums, typical_p)
    if typical_p >= 1 or last == len(sums):
        return finite, np.inf
    return (distances <= distances[order[last]]) & finite, np.abs(sums - typical_p).min()


# Histories in which n-grams of every size up to 4 come again, and rows too short to have any.
HISTORIES = [
    [5, 6, 7, 8, 5, 6, 7],
    [5, 6, 7, 8, 5, 6, 7],
    [5, 6, 7, 8, 5, 6, 7],
    [5, 6, 7, 8, 5, 6, 7],
    [5, 6, 7, 8, 5, 6, 7],
    [1, 1, 1, 1, 1],
    [1, 1],
    [1],
    [],
    [2, 39, 2, 3, 2],
]
SIZES = [0, 1, 2, 3, 4, 4, 3, 2, 1, 2]
COUNT = len(HISTORIES)


def marked(rows, vocab=VOCAB):
    """Give (batch, vocab_size) bool, True at the ids of each row."""
    return tensor([np.isin(np.arange(vocab), row) for row in rows], "bool")


def cases():
    """Each function with a batch of rows that differ, and with a batch that it must not change."""
    logits = tensor(random_logits(COUNT), "float32")
    history, lengths = padded(HISTORIES)
    counts = TokenCounts(
        count_tokens(history, lengths, VOCAB),
        count_tokens(history[:, ::-1], lengths // 2, VOCAB),
    )
    bias = random_logits(COUNT, seed=1)
    bias[:, 3] = -INFINITY
    bias[4, 1:] = -INFINITY
    spread = np.linspace(0, 1, COUNT)
    zeros, ones = floats(*[0] * COUNT), floats(*[1] * COUNT)
    stops = [[7, 9], [7], [], [9, 9], [39, 0]] * 2
    least = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    return {
        "add_bias": (
            add_bias,
            [logits, tensor(bias, "float32")],
            [logits, tensor(np.zeros((COUNT, VOCAB)), "float32")],
        ),
        "penalize": (
            penalize,
            [logits, counts, floats(*spread + 0.7), floats(*spread - 0.5), floats(*spread * 2)],
            [logits, counts, ones, zeros, zeros],
        ),
        "ban_repeated_ngrams": (
            ban_repeated_ngrams,
            [logits, history, lengths, ints(*SIZES)],
            [logits, history, lengths, ints(*[0] * COUNT)],
        ),
        "hold_back": (
            lambda *args: hold_back(*args, 4),
            [logits, marked(stops), ints(*least)],
            [logits, marked(stops), ints(*[0] * COUNT)],
        ),
        "keep_min_p": (keep_min_p, [logits, floats(*spread)], [logits, zeros]),
        "keep_typical": (keep_typical, [logits, floats(*spread * 1.1 + 0.01)], [logits, ones]),
        "count_tokens": (lambda *args: count_tokens(*args, VOCAB), [history, lengths], None),
        "add_token": (
            add_token,
            [counts.new, ints(*range(COUNT))],
            [counts.new, ints(*[VOCAB] * COUNT)],
        ),
    }


NAMES = [
    "add_bias",
    "penalize",
    "ban_repeated_ngrams",
    "hold_back",
    "keep_min_p",
    "keep_typical",
    "count_tokens",
    "add_token",
]


@pytest.mark.parametrize("name", NAMES)
def test_each_row_is_as_it_is_alone(name):
    function, rows, _ = cases()[name]
    together = np.asarray(function(*rows))
    for index in range(COUNT):
        alone = keras.tree.map_structure(lambda x, at=index: x[at : at + 1], rows)
        np.testing.assert_array_equal(np.asarray(function(*alone))[0], together[index])


@pytest.mark.parametrize("name", NAMES)
def test_graph_and_xla_are_eager(name):
    import tensorflow as tf

    function, rows, _ = cases()[name]
    want = np.asarray(function(*rows))
    for jit in (False, True):
        got = np.asarray(tf.function(function, jit_compile=jit, autograph=False)(*rows))
        assert got.dtype == want.dtype
        # XLA may fuse a multiplication and a sum, with one rounding where there were two.
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6 if name == "penalize" else 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "count_tokens"])
def test_neutral_values_change_no_bit(name):
    import tensorflow as tf

    function, _, neutral = cases()[name]
    same = np.asarray(neutral[0])
    for run in (function, tf.function(function, jit_compile=True, autograph=False)):
        got = np.asarray(run(*neutral))
        assert got.dtype == same.dtype
        assert got.tobytes() == same.tobytes()


# Bias.


def test_bias_rows_are_added_and_ban():
    row = bias_rows({3: 1.5, np.int64(4): -2, 5: 7.0, 6: -np.inf}, [5, 7, 7], 10)
    assert row.dtype == "float32"
    assert row.tolist() == [0, 0, 0, 1.5, -2, -np.inf, -np.inf, -np.inf, 0, 0]
    assert not bias_rows({}, (), 10).any()
    logits = random_logits(2, 10)
    got = np.asarray(add_bias(floats(*logits), floats(row, np.zeros(10))))
    np.testing.assert_array_equal(got, logits + np.stack([row, np.zeros(10)]).astype("float32"))


def test_a_bias_of_minus_infinity_for_all_others_forces_a_token():
    row = bias_rows({}, set(range(10)) - {6}, 10)
    got = np.asarray(add_bias(floats(*random_logits(1, 10)), floats(row)))
    assert np.isfinite(got[0]).nonzero()[0].tolist() == [6]


@pytest.mark.parametrize(
    ("logit_bias", "banned", "message"),
    [
        ({10: 1.0}, [], "logit_bias must hold ids from 0 to 9. Received: logit_bias with 10"),
        ({-1: 1.0}, [], "logit_bias must hold ids from 0 to 9. Received: logit_bias with -1"),
        ({"3": 1.0}, [], "logit_bias must hold ids from 0 to 9. Received: logit_bias with '3'"),
        ({True: 1.0}, [], "logit_bias must hold ids from 0 to 9. Received: logit_bias with True"),
        ({3: np.nan}, [], "number that fits float32, or -inf. Received: logit_bias with 3: nan"),
        ({3: np.inf}, [], "number that fits float32, or -inf. Received: logit_bias with 3: inf"),
        ({3: 1e39}, [], r"number that fits float32, or -inf. Received: logit_bias with 3: 1e\+39"),
        ({3: -1e39}, [], r"that fits float32, or -inf. Received: logit_bias with 3: -1e\+39"),
        ({3: "1"}, [], "number that fits float32, or -inf. Received: logit_bias with 3: '1'"),
        ({3: True}, [], "number that fits float32, or -inf. Received: logit_bias with 3: True"),
        (
            {},
            [2, 10],
            "banned_token_ids must hold ids from 0 to 9. Received: banned_token_ids with 10",
        ),
        (
            {},
            [2.0],
            "banned_token_ids must hold ids from 0 to 9. Received: banned_token_ids with 2.0",
        ),
        ({0: -np.inf}, range(1, 10), "must leave at least one id to choose. Received: all 10"),
    ],
)
def test_bias_rows_refuses(logit_bias, banned, message):
    with pytest.raises(ValueError, match=message):
        bias_rows(logit_bias, banned, 10)


# Counts and penalties.

rows_of_ids = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=3)


@given(rows_of_ids, st.integers(0, 3))
def test_counts_are_bincount(rows, padding):
    ids, lengths = padded(rows, time=12 + padding)
    got = np.asarray(count_tokens(ids, lengths, 5))  # 5 and 6 are outside the vocabulary
    assert got.dtype == "int32"
    np.testing.assert_array_equal(got, [bincount(row, 5) for row in rows])


def test_tokens_added_one_by_one_are_counted():
    rows = [[1, 2, 1, 0], [4, 4, 4, 4], [0, 3, 3, 2]]
    counts = count_tokens(*padded([[], [], []]), 5)
    for step in range(4):
        counts = add_token(counts, ints(*[row[step] for row in rows]))
    assert np.asarray(counts).dtype == "int32"
    np.testing.assert_array_equal(counts, [bincount(row, 5) for row in rows])
    # An id outside the vocabulary is none of the counted ones.
    np.testing.assert_array_equal(add_token(counts, ints(5, 6, 99)), counts)


@given(
    hnp.arrays("float32", (2, 7), elements=st.floats(-50, 50, width=32, allow_subnormal=False)),
    st.lists(st.integers(0, 6), max_size=8),
    st.lists(st.integers(0, 6), max_size=8),
    st.floats(0.125, 8, width=32),
    st.floats(-4, 4, width=32, allow_subnormal=False),
    st.floats(-4, 4, width=32, allow_subnormal=False),
)
def test_penalties_are_as_documented(logits, prompt, new, repetition, presence, frequency):
    # The second row has no history: nothing applies to it.
    counts = TokenCounts(
        count_tokens(*padded([prompt, []], 8), 7), count_tokens(*padded([new, []], 8), 7)
    )
    settings = [floats(value, value) for value in (repetition, presence, frequency)]
    got = np.asarray(penalize(tensor(logits, "float32"), counts, *settings))
    want = penalized(logits[0], prompt, new, repetition, presence, frequency)
    np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(got[1], logits[1])


def test_penalties_leave_a_ban():
    logits = floats([-INFINITY, 1.0, -INFINITY])
    ids = TokenCounts(*[count_tokens(*padded([[0, 1]]), 3)] * 2)
    for repetition in (0.5, 2.0):
        got = np.asarray(penalize(logits, ids, floats(repetition), floats(1), floats(-1)))
        assert np.isneginf(got[0]).tolist() == [True, False, True]


# N-grams.


def test_ngrams_of_each_row():
    history, lengths = padded(HISTORIES)
    logits = random_logits(COUNT)
    got = np.asarray(ban_repeated_ngrams(floats(*logits), history, lengths, ints(*SIZES)))
    banned = [set(np.isneginf(row).nonzero()[0].tolist()) for row in got]
    assert banned == [set(), {5, 6, 7, 8}, {8}, {8}, {8}, {1}, set(), set(), set(), {39, 3}]
    np.testing.assert_array_equal(np.where(np.isneginf(got), logits, got), logits)


@given(rows_of_ids, st.lists(st.integers(0, 5), min_size=3, max_size=3), st.integers(0, 3))
def test_ngrams_are_those_of_a_search(rows, sizes, padding):
    history, lengths = padded(rows, time=12 + padding)
    sizes = sizes[: len(rows)]
    # 6 is outside the vocabulary: it stands in n-grams, and there is no logit to ban.
    logits = tensor(random_logits(len(rows), 6), "float32")
    got = np.asarray(ban_repeated_ngrams(logits, history, lengths, ints(*sizes)))
    for row, size, logits_of_row in zip(rows, sizes, got, strict=True):
        banned = set(np.isneginf(logits_of_row).nonzero()[0].tolist())
        assert banned == banned_by_ngrams(row, size) - {6}


def test_all_tokens_but_one_may_be_banned():
    history, lengths = padded([[0, 1, 2, 4]])
    got = np.asarray(ban_repeated_ngrams(floats([1.0] * 5), history, lengths, ints(1)))
    assert got.tolist() == [[-np.inf, -np.inf, -np.inf, 1.0, -np.inf]]


# The least number of new tokens.


def test_stop_tokens_are_held_back_until_a_row_is_long_enough():
    logits = floats(*random_logits(3, 6))
    for step, early in ((0, [True, True, False]), (1, [False, True, False]), (3, [False] * 3)):
        for steps in (step, ints(step), ints(step, step, step)):
            stops = marked([[1, 4]] * 3, 6)
            got = np.asarray(hold_back(logits, stops, ints(1, 3, 0), steps))
            banned = np.outer(early, np.isin(np.arange(6), [1, 4]))
            np.testing.assert_array_equal(got, np.where(banned, -INFINITY, logits))
    stops = marked([[0], [2, 3], [5]], 6)
    own = np.asarray(hold_back(logits, stops, ints(9, 9, 9), ints(0, 8, 9)))
    assert [np.isneginf(row).nonzero()[0].tolist() for row in own] == [[0], [2, 3], []]


# Min-p and typical.


@pytest.mark.parametrize("keep", [keep_min_p, keep_typical])
def test_one_token_left_stays_and_equals_stay_together(keep):
    forced = np.full((4, 6), -INFINITY)
    forced[:, 2] = [-1e30, -5.0, 0.0, 1e30]
    values = floats(0.01, 0.5, 0.99, 1.0)
    np.testing.assert_array_equal(keep(floats(*forced), values), forced)
    ties = np.array([[-INFINITY, 0.5, 0.5, -INFINITY, 0.5, 0.5]] * 4, "float32")
    np.testing.assert_array_equal(keep(floats(*ties), values), ties)


def test_min_p_one_keeps_the_largest_alone():
    logits = floats([1.0, 3.0, 2.9999, 3.0], [0.0, -1.0, -2.0, -INFINITY])
    kept = np.isfinite(keep_min_p(logits, floats(1.0, 1.0)))
    assert kept.tolist() == [[False, True, False, True], [True, False, False, False]]


def test_typical_may_leave_out_the_most_probable():
    # One token of 0.4 and sixty of 0.01: the entropy is that of a token between them, nearer 0.01.
    logits = np.log(np.array([[0.4] + [0.01] * 60], "float32"))
    kept = np.isfinite(keep_typical(floats(*logits), floats(0.5)))
    assert kept.tolist() == [[False] + [True] * 60]


logits_with_bans = hnp.arrays(
    "float32",
    st.tuples(st.just(2), st.integers(1, 9)),
    elements=st.one_of(
        st.just(-np.inf),
        st.sampled_from([0.0, 1.0, -2.0]),
        st.floats(-20, 20, width=32, allow_subnormal=False),
    ),
).filter(lambda logits: np.isfinite(logits).any(axis=1).all())


@given(logits_with_bans, st.floats(0, 1, width=32, allow_subnormal=False))
def test_min_p_is_a_share_of_the_largest(logits, min_p):
    got = np.asarray(keep_min_p(floats(*logits), floats(min_p, 0)))
    p = np.exp(logits[0].astype("float64") - logits[0].max())
    if np.abs(p - min_p).min() > 1e-5:  # nearer than that, rounding decides
        np.testing.assert_array_equal(np.isfinite(got[0]), min_p_kept(logits[0], min_p))
    np.testing.assert_array_equal(np.where(np.isfinite(got), got, logits), logits)
    np.testing.assert_array_equal(got[1], logits[1])


@given(logits_with_bans, st.one_of(st.just(1.0), st.floats(0.015625, 0.96875, width=32)))
def test_typical_is_sorting(logits, typical_p):
    kept, margin = typical_kept(logits[0], typical_p)
    got = np.asarray(keep_typical(floats(*logits), floats(typical_p, 1)))
    if margin > 1e-5 and not _distances_nearly_tie(logits[0]):
        np.testing.assert_array_equal(np.isfinite(got[0]), kept)
    assert np.isfinite(got[0]).any()
    np.testing.assert_array_equal(np.where(np.isfinite(got), got, logits), logits)
    np.testing.assert_array_equal(got[1], logits[1])


def _distances_nearly_tie(logits):
    """Say whether two different logits are all but as far from the entropy: rounding decides."""
    values = np.unique(logits[np.isfinite(logits)].astype("float64"))
    log_p = values - np.log(np.exp(logits.astype("float64")).sum())
    p = np.exp(logits.astype("float64") - logits.max())
    p /= p.sum()
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    gaps = np.diff(np.sort(np.abs(-log_p - entropy)))
    return bool(len(gaps)) and gaps.min() < 1e-4


# Against transformers.


@pytest.fixture(scope="module")
def peer():
    """Run one of transformers' processors on one row."""
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")

    def run(name, ids, logits, *args):
        ids = torch.tensor(np.asarray([ids]), dtype=torch.long)
        return getattr(process, name)(*args)(ids, torch.tensor(logits[None]))[0].numpy()

    return run


@pytest.fixture(scope="module")
def histories():
    """24 rows of 0 to 60 of 2 ids, so that n-grams come again."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 2, length).tolist() for length in [0, 1, 2, *rng.integers(3, 60, 21)]]


def test_repetition_penalty_is_transformers(peer, histories):
    count = len(histories)
    logits = random_logits(count, seed=5)
    penalties = np.random.default_rng(6).uniform(0.5, 3, count).astype("float32")
    prompts = [row[: len(row) // 3] for row in histories]
    answers = [row[len(row) // 3 :] for row in histories]
    counts = TokenCounts(*[count_tokens(*padded(rows), VOCAB) for rows in (prompts, answers)])
    zeros = floats(*[0] * count)
    got = np.asarray(penalize(floats(*logits), counts, floats(*penalties), zeros, zeros))
    for index, row in enumerate(histories):
        want = peer("RepetitionPenaltyLogitsProcessor", row, logits[index], float(penalties[index]))
        np.testing.assert_allclose(got[index], want, rtol=1e-6)


def test_ngrams_are_transformers(peer, histories):
    count = len(histories)
    logits = random_logits(count, seed=7)
    sizes = np.arange(count) % 5 + 1
    history, lengths = padded(histories)
    got = np.asarray(ban_repeated_ngrams(floats(*logits), history, lengths, ints(*sizes)))
    assert set(sizes[np.isneginf(got).any(axis=1)]) == {1, 2, 3, 4, 5}
    for index, row in enumerate(histories):
        want = peer("NoRepeatNGramLogitsProcessor", row, logits[index], int(sizes[index]))
        np.testing.assert_array_equal(got[index], want)


def test_bias_and_bans_are_transformers(peer):
    logits = random_logits(1, seed=8)
    row = bias_rows({4: 2.5, 9: -1.25}, [3, 30], VOCAB)
    got = np.asarray(add_bias(floats(*logits), floats(row)))[0]
    want = peer("SequenceBiasLogitsProcessor", [1], logits[0], {(4,): 2.5, (9,): -1.25})
    np.testing.assert_array_equal(got, peer("NoBadWordsLogitsProcessor", [1], want, [[3], [30]]))


def test_min_new_tokens_is_transformers(peer):
    logits = random_logits(4, seed=9)
    least = [0, 1, 2, 5]
    for step in range(6):
        got = np.asarray(hold_back(floats(*logits), marked([[7, 11]] * 4), ints(*least), step))
        for index, minimum in enumerate(least):
            name, ids = "MinNewTokensLengthLogitsProcessor", [1] * (3 + step)
            want = peer(name, ids, logits[index], 3, minimum, [7, 11])
            np.testing.assert_array_equal(got[index], want)


@pytest.mark.parametrize(
    ("keep", "name", "values"),
    [
        (keep_min_p, "MinPLogitsWarper", np.linspace(0, 1, 24)),
        (keep_typical, "TypicalLogitsWarper", np.linspace(0.01, 0.999, 24)),
    ],
)
def test_cut_offs_are_transformers(peer, keep, name, values):
    for scale in (0.1, 1.0, 4.0):
        logits = random_logits(24, 300, seed=10) * np.float32(scale)
        logits[::2, ::7] = -INFINITY  # as top-k and bans leave them
        got = np.asarray(keep(floats(*logits), floats(*values)))
        for index, value in enumerate(values):
            want = peer(name, [1], logits[index], float(np.float32(value)))
            np.testing.assert_array_equal(got[index], want)
