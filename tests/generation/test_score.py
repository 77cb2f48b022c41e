"""`score`: the chain rule over the logits of a plain forward pass."""

import keras
import numpy as np
import pytest
from gpt_cases import (
    ARCHITECTURES,
    CONTEXT,
    logits_of,
    make_gpt,
    random_ids,
    shared_gpt,
    small_tokenizer,
)
from optimized import is_optimized, run_optimized

ROWS = [random_ids(n, seed=n).tolist() for n in (2, 7, 20, 31, 40, 5, 6, 9, 12)]


def log_probabilities(gpt, row, prefix=0):
    """Give log P of each token of `row` from the second on."""
    inputs = {"token_ids": np.array([row[:-1]])}
    if gpt.config.bidirectional_prefix:
        inputs["prefix_lengths"] = np.array([prefix])
    log_p = np.asarray(keras.ops.log_softmax(logits_of(gpt, inputs)[0], axis=-1))
    return log_p[np.arange(len(row) - 1), row[1:]]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_score_is_the_chain_rule(name):
    gpt = shared_gpt(name)
    want = [log_probabilities(gpt, row) for row in ROWS]
    got = gpt.score(ROWS)
    assert all(type(one) is float for one in got)
    np.testing.assert_allclose(got, [one.sum() for one in want], rtol=1e-4)
    for a, b in zip(gpt.score(ROWS, per_token=True), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
        assert a.dtype == "float32"


@pytest.mark.parametrize("name", ["gpt3", "prefix"])
def test_given(name):
    gpt = shared_gpt(name)
    sources, targets = [[3, 4, 5], [9]], [[6, 7], [1, 2, 3, 4]]
    want = [
        log_probabilities(gpt, source + target, len(source))[-len(target) :]
        for source, target in zip(sources, targets, strict=True)
    ]
    np.testing.assert_allclose(
        gpt.score(targets, given=sources), [one.sum() for one in want], rtol=1e-4
    )
    one = gpt.score(targets[0], given=sources[0], per_token=True)
    np.testing.assert_allclose(one, want[0], rtol=1e-3, atol=1e-3)


def answers_to_questions(seed=3):
    """Give 7 contexts of many lengths with 1 to 4 continuations each, in no order."""
    rng = np.random.default_rng(seed)
    pairs = []
    for length in (1, 2, 5, 9, 17, 30, 40):
        context = rng.integers(0, 96, length).tolist()
        for _ in range(rng.integers(1, 5)):
            pairs.append((context, rng.integers(0, 96, rng.integers(1, 9)).tolist()))
    rng.shuffle(pairs)
    return [list(each) for each in zip(*pairs, strict=True)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_continuations_of_one_context_do_not_see_each_other(name):
    """They are read behind one reading of it, and score as each does alone, uncompiled."""
    gpt = shared_gpt(name)
    sources, targets = answers_to_questions()
    want = [
        log_probabilities(gpt, source + target, len(source))[-len(target) :]
        for source, target in zip(sources, targets, strict=True)
    ]
    np.testing.assert_allclose(
        gpt.score(targets, given=sources), [one.sum() for one in want], rtol=1e-5
    )
    for got, one in zip(gpt.score(targets, sources, per_token=True), want, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-5)


def test_a_quantized_model_scores_continuations_of_one_context_as_each_alone():
    """Inputs are floats or have 23 bits, which hardly tells whatever stands beside them."""
    gpt = make_gpt()
    gpt.quantize("int8")
    sources, targets = answers_to_questions()
    alone = [gpt.score(t, given=s) for s, t in zip(sources, targets, strict=True)]
    np.testing.assert_allclose(gpt.score(targets, given=sources), alone, rtol=1e-5)


def test_half_precision_scores():
    """Its logits are summed in float32, when XLA optimizes as it does for users."""
    if not is_optimized():
        run_optimized(f"{__file__}::test_half_precision_scores")
        return
    gpt = make_gpt(dtype="mixed_bfloat16")
    sources, targets = answers_to_questions()
    want = [
        log_probabilities(gpt, source + target)[-len(target) :].sum()
        for source, target in zip(sources, targets, strict=True)
    ]
    got = gpt.score(targets, given=sources)
    assert np.abs(np.subtract(got, want)).mean() < 0.05 * np.abs(want).mean()


def test_a_batch_scores_as_one_by_one():
    gpt = shared_gpt("gpt3")
    np.testing.assert_allclose(gpt.score(ROWS[:3]), [gpt.score(row) for row in ROWS[:3]], rtol=1e-5)


def test_probabilities_of_all_continuations_sum_to_one():
    gpt = shared_gpt("gpt3")
    scores = gpt.score([[token] for token in range(96)], given=[[1, 2, 3]] * 96)
    assert np.exp(scores).sum() == pytest.approx(1.0, rel=1e-4)


def test_what_is_longer_than_the_context_is_scored_in_windows():
    """Each token once, after the tokens of its window alone."""
    gpt = shared_gpt("gpt3")
    long, stride = random_ids(100, seed=1).tolist(), 15
    want = list(log_probabilities(gpt, long[: CONTEXT + 1]))
    while len(want) < 99:
        count = min(stride, 99 - len(want))
        end = 1 + len(want) + count
        want += list(log_probabilities(gpt, long[end - 1 - CONTEXT : end])[-count:])
    got = gpt.score([long, ROWS[0]], per_token=True, stride=stride)
    np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-3)
    assert gpt.score(long, stride=stride) == pytest.approx(sum(want), rel=1e-4)
    np.testing.assert_allclose(got[1], log_probabilities(gpt, ROWS[0]), rtol=1e-3, atol=1e-3)
    after = gpt.score(long[60:], given=long[:60], per_token=True, stride=stride)
    assert len(after) == 40
    np.testing.assert_allclose(
        after[0], log_probabilities(gpt, long[75 - CONTEXT - 1 : 75])[-15], rtol=1e-3, atol=1e-3
    )
    with pytest.raises(ValueError, match="or a model without bidirectional_prefix must be given"):
        gpt.score(long)
    with pytest.raises(ValueError, match="or a model without bidirectional_prefix must be given"):
        shared_gpt("prefix").score(long, stride=stride)
    for wrong in (0, CONTEXT + 1, 2.5, True):
        with pytest.raises(
            ValueError, match=f"stride must be an integer from 1 to context_length={CONTEXT}"
        ):
            gpt.score(long, stride=wrong)


def test_without_a_tokenizer_the_first_token_is_only_given():
    gpt = shared_gpt("gpt3")
    assert gpt.score([5]) == 0.0
    assert gpt.score([5], per_token=True).shape == (0,)
    assert gpt.score([5, 6, 7]) == pytest.approx(gpt.score([6, 7], given=[5]), rel=1e-5)


def test_with_a_tokenizer_a_text_follows_the_end_of_text():
    gpt = make_gpt(vocab_size=300, tokenizer=small_tokenizer())
    text = "the cat sat"
    ids, end = gpt.tokenizer.encode(text), gpt.tokenizer.end_of_text_id
    want = log_probabilities(gpt, [end, *ids])
    assert gpt.score(text) == pytest.approx(float(want.sum()), rel=1e-4)
    assert gpt.score(ids) == gpt.score(text)
    assert len(gpt.score(text, per_token=True)) == len(ids)
    given = gpt.score(" sat", given="the cat")
    source, target = gpt.tokenizer.encode("the cat"), gpt.tokenizer.encode(" sat")
    want = log_probabilities(gpt, source + target)[-len(target) :]
    assert given == pytest.approx(float(want.sum()), rel=1e-4)
    assert gpt.score([text, text]) == pytest.approx([gpt.score(text)] * 2)


def test_limits_and_errors():
    gpt = shared_gpt("gpt3")
    longest = random_ids(CONTEXT + 1).tolist()
    assert np.isfinite(gpt.score(longest))
    for targets, given in (([*longest, 1], None), (longest[:40], longest[:10])):
        with pytest.raises(ValueError, match=rf"targets\[0\].*at most {CONTEXT + 1} tokens"):
            gpt.score(targets, given=given)
    with pytest.raises(ValueError, match="2 sources, 1 targets"):
        gpt.score([[1]], given=[[1], [2]])
    with pytest.raises(ValueError, match="one source"):
        gpt.score([1], given=[[1]])
    for targets in ([], [[]], "text"):
        with pytest.raises(ValueError, match="targets"):
            gpt.score(targets)
    with pytest.raises(ValueError, match="given"):
        gpt.score([1], given=[])
    with pytest.raises(TypeError, match="targets"):
        gpt.score(None)
