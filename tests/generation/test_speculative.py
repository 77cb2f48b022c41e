"""Speculative decoding: the answer of plain decoding, with guesses of every quality."""

import itertools

import keras
import numpy as np
import pytest
from gpt_cases import (
    CONTEXT,
    architectures,
    make_gpt,
    random_ids,
    shared_gpt,
    small_tokenizer,
    some,
)
from machine_code import nothing_compiled
from scipy import stats

from keras_gpt import Tokenizer
from keras_gpt.generation.compiled import num_programs
from keras_gpt.generation.decode import decode
from keras_gpt.generation.proposals import PromptLookup
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import SamplingOptions
from keras_gpt.generation.speculative import MOST_DRAFT_TOKENS, Totals, decode_speculatively
from keras_gpt.generation.steps import decode_steps

PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 17, 30, CONTEXT - 1)]


def row_of(prompt, max_new_tokens=None):
    new = CONTEXT - len(prompt) if max_new_tokens is None else max_new_tokens
    return Row(prompt, new, SamplingOptions(temperature=0.0, seed=0))


def disturbed(gpt, size):
    """A copy of a model whose weights are a little off: right sometimes, and wrong sometimes."""
    copy = gpt.__class__.from_config(gpt.get_config())
    rng = np.random.default_rng(0)
    for own, other in zip(copy.weights, gpt.weights, strict=True):
        values = keras.ops.convert_to_numpy(other)
        own.assign(values * (1 + size * rng.normal(size=values.shape)))
    return copy


@pytest.fixture(scope="module")
def disturbed_gpt3():
    return disturbed(shared_gpt("gpt3"), 0.05)


@pytest.fixture(scope="module")
def unlike():
    """A model that is hardly ever right."""
    return make_gpt(num_layers=1)


@pytest.mark.parametrize("prompt", some(PROMPTS, PROMPTS[0], PROMPTS[2]), ids=len)
def test_greedy_answers_are_those_of_plain_decoding(prompt, disturbed_gpt3, unlike):
    gpt = shared_gpt("gpt3")
    want = gpt.generate(prompt, temperature=0)
    for settings in (
        {"draft_model": disturbed_gpt3},
        {"draft_model": unlike},
        {"draft_model": gpt, "num_draft_tokens": MOST_DRAFT_TOKENS},  # always right
        {"prompt_lookup": 1},
        {"prompt_lookup": 2, "num_draft_tokens": 1},
    ):
        assert gpt.generate(prompt, temperature=0, **settings) == want


@pytest.mark.parametrize("name", architectures("llama"))
def test_greedy_answers_of_other_architectures(name, disturbed_gpt3):
    gpt = shared_gpt(name)
    want = gpt.generate(PROMPTS[1], temperature=0)
    for guessing in ({"draft_model": disturbed_gpt3}, {"prompt_lookup": 1}):
        assert gpt.generate(PROMPTS[1], temperature=0, **guessing) == want


def test_a_long_context_and_double_precision():
    gpt = make_gpt(context_length=150, dtype="float64", num_layers=1)
    want = gpt.generate(PROMPTS[2], temperature=0)
    assert gpt.generate(PROMPTS[2], temperature=0, draft_model=disturbed(gpt, 0.03)) == want


def test_totals(disturbed_gpt3):
    gpt, new = shared_gpt("gpt3"), 31
    row = row_of(PROMPTS[1], max_new_tokens=new)
    want = [tokens[0].token for tokens in decode(gpt, [row])]
    counted = {}
    for name, draft in (("same", gpt), ("near", disturbed_gpt3)):
        counted[name] = Totals()
        got = decode_speculatively(gpt, row, draft=draft, num_draft_tokens=4, totals=counted[name])
        assert [chosen.token for chosen in got] == want
    # 1 token from the prompt, then 5 a round.
    assert counted["same"] == Totals(rounds=6, plain_steps=0, drafted=24, accepted=24)
    near = counted["near"]
    assert 0 < near.accepted < near.drafted
    assert near.accepted + near.rounds + near.plain_steps == new - 1


def test_a_text_that_repeats_itself_is_looked_up():
    gpt = shared_gpt("gpt3")
    # After enough tokens a small greedy model goes in circles.
    prompt = gpt.generate(PROMPTS[0], temperature=0, max_new_tokens=20)
    totals = Totals()
    got = [
        each.token for each in decode_speculatively(gpt, row_of(prompt), lookup=2, totals=totals)
    ]
    assert prompt + got == gpt.generate(prompt, temperature=0)
    assert totals.drafted > 0
    assert totals.plain_steps + totals.rounds + totals.accepted == len(got) - 1


def test_stopping(disturbed_gpt3):
    gpt = shared_gpt("gpt3")
    plain = gpt.generate(PROMPTS[0], temperature=0)
    new = plain[len(PROMPTS[0]) :]
    for stop in set(new[:12]):
        settings = {"temperature": 0, "stop_token_ids": [stop]}
        want = PROMPTS[0] + new[: new.index(stop)]
        for guessing in ({"draft_model": gpt}, {"draft_model": disturbed_gpt3}):
            assert gpt.generate(PROMPTS[0], **settings, **guessing) == want
    for count in (1, 2, 3, 7):
        got = gpt.generate(PROMPTS[0], temperature=0, max_new_tokens=count, draft_model=gpt)
        assert got == plain[: len(PROMPTS[0]) + count]


def test_several_rows_are_what_each_is_alone(disturbed_gpt3):
    gpt = shared_gpt("gpt3")
    for settings in ({"draft_model": disturbed_gpt3}, {"prompt_lookup": 1}):
        settings = {"temperature": 1.2, "top_k": 20, "seed": 4, "max_new_tokens": 10, **settings}
        alone = [gpt.generate(prompt, **settings) for prompt in PROMPTS[:3]]
        assert gpt.generate(PROMPTS[:3], **settings) == alone
        assert gpt.generate(PROMPTS[0], **settings) == alone[0]
        assert gpt.generate(PROMPTS[0], **{**settings, "seed": 5}) != alone[0]
        several = gpt.generate(PROMPTS[0], num_return_sequences=3, **settings)
        assert several[0] == alone[0]
        assert len({tuple(answer) for answer in several}) == 3


def test_drawn_tokens_have_the_model_s_distribution():
    shape = {"vocab_size": 3, "num_layers": 1, "context_length": 8, "initializer_range": 0.2}
    gpt, prompt, count = make_gpt(**shape), [1, 2, 1], 500
    settings = {"temperature": 2.0, "max_new_tokens": 3, "seed": 0, "stop_token_ids": []}
    answers = np.array(list(itertools.product(range(3), repeat=3)))
    sequences = np.concatenate([np.tile(prompt, (len(answers), 1)), answers], axis=1)
    logits = keras.ops.convert_to_numpy(gpt(sequences)).astype("float64")[:, 2:5] / 2.0
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.take_along_axis(p, answers[:, :, None], axis=2)[:, :, 0].prod(1) * count
    assert expected.min() > 5  # below it the test's own distribution does not hold
    for guessing in ({"draft_model": make_gpt(**shape)}, {"prompt_lookup": 1}):
        rows = gpt.generate(
            prompt, num_return_sequences=count, num_draft_tokens=2, **settings, **guessing
        )
        drawn = np.array(rows)[:, 3:] @ [9, 3, 1]
        counts = np.bincount(drawn, minlength=27)
        assert stats.chisquare(counts, expected / expected.sum() * count).pvalue > 1e-3


def test_nothing_is_compiled_after_the_first_answers(disturbed_gpt3):
    gpt = shared_gpt("gpt3")
    # When slots are folded depends on how many guesses are right, and so on random weights.
    gpt.warmup()
    disturbed_gpt3.warmup()
    # Within the first bucket, from it to the second, and within the second.
    for prompt in (PROMPTS[0], PROMPTS[1], random_ids(35).tolist()):
        for settings in ({"draft_model": disturbed_gpt3}, {"prompt_lookup": 1}):
            gpt.generate(prompt, temperature=0, **settings)
    functions = [
        getattr(decode_steps(model), name)
        for model in (gpt, disturbed_gpt3)
        for name in ("first", "next", "read", "choose", "probabilities", "accept", "fold")
    ]
    counts = [num_programs(function) for function in functions]
    assert sum(counts) > 8
    with nothing_compiled():
        for seed, length in enumerate((1, 5, 12, 25, 31)):
            for settings in ({"draft_model": disturbed_gpt3}, {"prompt_lookup": 1}):
                gpt.generate(random_ids(length, seed=seed).tolist(), seed=seed, top_k=5, **settings)
    assert [num_programs(function) for function in functions] == counts


@pytest.mark.parametrize("size", [1, 2, 3])
def test_look_up_finds_the_last_earlier_place(size):
    rng = np.random.default_rng(size)
    for _ in range(50):
        lookup, tokens, found = PromptLookup(size, 4, 5), rng.integers(0, 3, 2).tolist(), 0
        while len(tokens) < 40:
            proposal = lookup.propose(tokens, 0)
            ends = [
                end
                for end in range(size, len(tokens))
                if tokens[end - size : end] == tokens[-size:] and len(tokens) >= size
            ]
            if not ends:
                assert proposal is None
            else:
                going_on = tokens + (tokens[ends[-1] :] * 4)
                assert proposal.tokens == going_on[len(tokens) : len(tokens) + 4]
                np.testing.assert_array_equal(proposal.probabilities, np.eye(5)[[proposal.tokens]])
                found += 1
            tokens += rng.integers(0, 3, rng.integers(1, 4)).tolist()
        assert found


def test_text_and_streams():
    speaker = make_gpt(vocab_size=320, tokenizer=small_tokenizer())
    draft = make_gpt(vocab_size=300, num_layers=1, tokenizer=small_tokenizer())
    settings = {"max_new_tokens": 20, "temperature": 0}
    want = speaker.generate("the cat", **settings)
    for guessing in ({"draft_model": draft}, {"prompt_lookup": 2}):
        assert speaker.generate("the cat", **settings, **guessing) == want
        pieces = list(speaker.stream("the cat", **settings, **guessing))
        assert "the cat" + "".join(pieces) == want
        stop = want[len("the cat") + 3 :][:2]
        cut = speaker.generate(["the cat", "a mat"], **settings, **guessing, stop=stop)
        assert cut[0] == want[: want.find(stop, len("the cat"))]
        assert cut[1] == speaker.generate("a mat", stop=stop, **settings)
        details = speaker.generate("the cat", **settings, **guessing, stop=stop, details=True)
        assert (details.text, details.finish_reason) == (cut[0], "stop")
    with pytest.raises(ValueError, match="logprobs=2"):
        speaker.generate("the cat", prompt_lookup=2, details=True, logprobs=2)


def test_arguments_that_do_not_fit_are_refused():
    gpt = shared_gpt("gpt3")
    prompt = PROMPTS[0]
    for settings, message in (
        ({"num_draft_tokens": 3}, "must come with draft_model or prompt_lookup"),
        ({"draft_model": gpt, "prompt_lookup": 2}, "not both"),
        ({"prompt_lookup": 0}, r"prompt_lookup must be an integer, from 1 to 48\. .*=0"),
        ({"prompt_lookup": True}, "prompt_lookup must be an integer"),
        ({"prompt_lookup": 2, "num_draft_tokens": 0}, r"num_draft_tokens must be .*from 1 to 31"),
        ({"prompt_lookup": 2, "num_draft_tokens": 32}, r"num_draft_tokens must be .*=32"),
        ({"draft_model": make_gpt(vocab_size=95)}, r"vocabulary.* 95 tokens, the model has 96"),
        ({"prompt_lookup": 2, "min_new_tokens": 1}, "go with temperature, top_k.*min_new_tokens=1"),
        ({"prompt_lookup": 2, "repetition_penalty": 1.1}, "go with temperature, top_k"),
        (
            {"draft_model": make_gpt(context_length=40)},
            r"context.*context_length=40, a prompt of 3 tokens and 45 new",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            gpt.generate(prompt, **settings)
        with pytest.raises(ValueError, match=message):
            gpt.stream(prompt, **settings)  # at the call, not at the first piece
    with pytest.raises(TypeError, match=r"draft_model must be a GPT\. Received: .* str"):
        gpt.generate(prompt, draft_model="gpt2")
    short = make_gpt(context_length=40)
    got = gpt.generate(prompt, draft_model=short, max_new_tokens=37, temperature=0)
    assert got == gpt.generate(prompt, max_new_tokens=37, temperature=0)


def test_a_draft_with_other_tokens_is_refused():
    other = Tokenizer.train_from_texts(["a dog ran in the park over there, and back"] * 4, 270)
    size = small_tokenizer().vocab_size
    assert other.vocab_size == size
    speaker = make_gpt(vocab_size=size, tokenizer=small_tokenizer())
    draft = make_gpt(vocab_size=size, tokenizer=other)
    with pytest.raises(ValueError, match=r"must have the model's vocabulary.*which is"):
        speaker.generate("the cat", draft_model=draft)
    # Without a tokenizer only the number of tokens is known.
    speaker.generate("the cat", draft_model=make_gpt(vocab_size=size), max_new_tokens=2)
