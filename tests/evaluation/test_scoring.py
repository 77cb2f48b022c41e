"""Scores in batches: those of the plain logits, whatever the batching."""

from typing import Any

import numpy as np
import pytest
from gpt_cases import CONTEXT, VOCAB_SIZE, logits_of, make_gpt, shared_gpt, small_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from keras_gpt import GPT
from keras_gpt.evaluation import perplexity
from keras_gpt.evaluation.scoring import (
    Request,
    encode_pair,
    score_requests,
)
from keras_gpt.generation.strides import windows


def _plain(gpt: GPT, request: Request) -> tuple[float, bool]:
    """Score one request by the definition, without batches."""
    ids = [*request.context, *request.continuation]
    inputs = ids[:-1][-gpt.config.context_length :]
    logits = logits_of(gpt, np.array([inputs]))[0].astype("float64")
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    count = len(request.continuation)
    rows = logs[-count:]
    total = sum(row[token] for row, token in zip(rows, request.continuation, strict=True))
    return float(total), bool((rows.argmax(-1) == request.continuation).all())


def _requests(rng: Any, count: int) -> list[Request]:
    return [
        Request(
            rng.integers(0, VOCAB_SIZE, rng.integers(1, 60)).tolist(),
            rng.integers(0, VOCAB_SIZE, rng.integers(1, 20)).tolist(),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_are_those_of_the_plain_logits(name: str) -> None:
    """For rows of every length, those beyond the context too; in their own order."""
    gpt = shared_gpt(name)
    requests = _requests(np.random.default_rng(1), 90)
    seen: list[int] = []
    scores = score_requests(gpt, requests, seen.append)
    assert sum(seen) == len(requests)
    assert score_requests(gpt, []) == []
    for request, score in zip(requests, scores, strict=True):
        total, greedy = _plain(gpt, request)
        assert score.log_probability == pytest.approx(total, abs=2e-3)
        assert score.is_greedy == greedy
        assert score.num_tokens == len(request.continuation)
        length = len(request.context) + len(request.continuation) - 1
        assert score.num_cut == max(0, length - CONTEXT)


def test_answers_to_one_question_that_is_cut_differently() -> None:
    """The longer answer leaves less room for the question; each is scored as it is alone."""
    gpt = shared_gpt("llama")
    question = list(range(CONTEXT - 3))
    requests = [Request(question, answer) for answer in ([1], [2, 3, 4, 5, 6, 7], [8, 9], [8, 10])]
    scores = score_requests(gpt, requests)
    assert [score.num_cut for score in scores] == [0, 2, 0, 0]
    for request, score in zip(requests, scores, strict=True):
        assert score.log_probability == pytest.approx(_plain(gpt, request)[0], rel=1e-5)


def test_a_greedy_continuation_is_found() -> None:
    """The model's own choice is greedy; with one token changed it is not."""
    gpt = shared_gpt("gpt2")
    prompt = [3, 1, 4]
    whole = gpt.generate(prompt, max_new_tokens=6, temperature=0, stop_token_ids=[])
    own = whole[3:]
    other = [*own[:-1], (own[-1] + 1) % VOCAB_SIZE]
    scores = score_requests(gpt, [Request(prompt, own), Request(prompt, other)])
    assert [score.is_greedy for score in scores] == [True, False]


def test_a_quantized_model_is_scored_by_its_own_logits() -> None:
    """Its projection rounds too."""
    gpt = make_gpt()
    gpt.quantize("int8")
    request = Request([1, 2, 3], [4, 5])
    (score,) = score_requests(gpt, [request])
    assert score.log_probability == pytest.approx(_plain(gpt, request)[0], abs=0.05)


@pytest.mark.parametrize(
    "request_", [Request([], [1]), Request([1], []), Request([1], [1] * (CONTEXT + 1))]
)
def test_what_cannot_be_scored_is_named(request_: Request) -> None:
    """Nothing given, nothing to score, too much to score."""
    with pytest.raises(ValueError, match=r"requests\[1\]"):
        score_requests(shared_gpt("gpt2"), [Request([1], [2]), request_])


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("The cat", " sat"), ("The cat ", "sat"), ("The cat  ", " sat"), ("", "The"), ("a\n", "b")],
)
def test_pairs_are_encoded_as_one_text(context: str, continuation: str) -> None:
    """Spaces between belong to the continuation."""
    tokenizer = small_tokenizer()
    pair = encode_pair(tokenizer, context, continuation)
    if context:
        assert tokenizer.decode([*pair.context, *pair.continuation]) == context + continuation
        assert tokenizer.decode(pair.context) == context.rstrip()
    else:
        assert pair.context == [tokenizer.end_of_text_id]
        assert tokenizer.decode(pair.continuation) == continuation
    with pytest.raises(ValueError, match="continuation"):
        encode_pair(tokenizer, "The", "")


# Perplexity


@given(st.integers(2, 200), st.integers(2, 50), st.data())
def test_windows_score_every_token_once(count: int, window: int, data: st.DataObject) -> None:
    """In order, each with the context that is promised."""
    stride = data.draw(st.integers(1, window))
    ids, scored = list(range(count)), data.draw(st.integers(1, count))
    requests = windows(ids, window, stride, scored)
    assert [token for request in requests for token in request.continuation] == ids[scored:]
    if requests and scored <= window:  # all that is given, where it leaves room
        assert requests[0].context == ids[:scored]
    for place, request in enumerate(requests):
        whole = [*request.context, *request.continuation]
        assert whole == ids[whole[0] : whole[-1] + 1]
        assert len(whole) - 1 <= window
        if place:
            assert len(request.continuation) <= stride
            assert len(request.context) >= min(window - stride, 1)
            assert len(request.context) > window - stride or whole[0] == 0


def test_perplexity_is_that_of_the_plain_logits() -> None:
    """A text that is longer than the window, by the definition."""
    tokenizer = small_tokenizer()
    gpt = make_gpt(vocab_size=tokenizer.vocab_size)
    gpt.tokenizer = tokenizer
    text = "the cat sat on the mat. Once upon a time, 日本語! " * 4
    result = perplexity(gpt, text, window=24, stride=10)
    ids = [tokenizer.end_of_text_id, *tokenizer.encode(text)]
    total = sum(_plain(gpt, request)[0] for request in windows(ids, 24, 10))  # type: ignore[arg-type]
    assert result.num_tokens == len(ids) - 1
    assert result.loss == pytest.approx(-total / (len(ids) - 1), abs=1e-4)
    assert result.perplexity == pytest.approx(np.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(-total / np.log(2) / len(text.encode()), rel=1e-4)
    twice = perplexity(gpt, [text, text], window=24, stride=10)
    assert twice.loss == pytest.approx(result.loss, abs=1e-6)
    for settings in ({"window": 1}, {"window": CONTEXT + 1}, {"stride": 0}, {"stride": 999}):
        with pytest.raises(ValueError, match="Received"):
            perplexity(gpt, text, **settings)


def test_a_prefix_that_is_read_both_ways_is_scored_so() -> None:
    """The context of a request is what `score` calls given."""
    gpt = make_gpt(bidirectional_prefix=True)
    requests = _requests(np.random.default_rng(4), 12)
    requests = [each for each in requests if len(each.context) + len(each.continuation) < CONTEXT]
    want = gpt.score(
        [each.continuation for each in requests], given=[each.context for each in requests]
    )
    got = [score.log_probability for score in score_requests(gpt, requests)]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_weights_that_are_no_numbers_get_no_score() -> None:
    """Nor an accuracy, which would be the share of questions whose first choice is right."""
    gpt = make_gpt()
    gpt.weights[0].assign(np.full(gpt.weights[0].shape, np.nan))
    with pytest.raises(ValueError, match="check its weights"):
        score_requests(gpt, [Request([1], [2])])


def test_a_second_call_compiles_nothing() -> None:
    """The compiled functions are kept with the model until its weights are replaced."""
    gpt = make_gpt()
    score_requests(gpt, [Request([1], [2])])
    kept = gpt._token_scores.value
    score_requests(gpt, [Request([1, 2], [2])])
    assert gpt._token_scores.value is kept
    assert kept.states.experimental_get_tracing_count() == 1
    assert kept.scores.experimental_get_tracing_count() == 1
    gpt.blocks[0].attention.qkv.enable_lora(2)
    score_requests(gpt, [Request([1], [2])])
    assert gpt._token_scores.value is not kept
