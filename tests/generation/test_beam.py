"""Beam search: transformers' sequences and scores, the best of all sequences, each row as alone."""

import itertools
import math

import keras
import numpy as np
import pytest
from gpt_cases import (
    ARCHITECTURES,
    CONTEXT,
    architectures,
    logits_of,
    make_gpt,
    random_ids,
    shared_gpt,
    small_tokenizer,
    some,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_code import nothing_compiled

from keras_gpt.generation.beam import _functions_of
from keras_gpt.generation.compiled import num_programs
from keras_gpt.generation.search_options import BeamOptions
from keras_gpt.generation.steps import decode_steps

PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 9, 17, 25, 30)]
STOPS = list(range(3, 96, 6))  # so many that sequences end

# Settings as ours, and as transformers calls them.
SETTINGS = {
    "plain": {"num_beams": 4, "max_new_tokens": 12},
    "two": {"num_beams": 2, "max_new_tokens": 18, "stop_token_ids": STOPS[:9]},
    "long": {"num_beams": 3, "max_length": CONTEXT, "stop_token_ids": STOPS[:6]},
    "at_once": {
        "num_beams": 4,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "early_stopping": True,
    },
    "heuristic": {"num_beams": 4, "max_new_tokens": 14, "stop_token_ids": STOPS},
    "never": {
        "num_beams": 4,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "early_stopping": "never",
    },
    "favour_long": {
        "num_beams": 5,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "length_penalty": 2.5,
        "early_stopping": "never",
    },
    "favour_long_heuristic": {
        "num_beams": 5,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "length_penalty": 2.0,
    },
    "no_penalty": {
        "num_beams": 3,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "length_penalty": 0.0,
        "early_stopping": "never",
    },
    "favour_short": {
        "num_beams": 3,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "length_penalty": -1.0,
        "early_stopping": "never",
    },
    "held_back": {
        "num_beams": 4,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS,
        "min_new_tokens": 5,
    },
    "penalty": {
        "num_beams": 4,
        "max_new_tokens": 12,
        "stop_token_ids": STOPS[6:],
        "repetition_penalty": 1.4,
    },
    "ngrams": {"num_beams": 4, "max_new_tokens": 16, "no_repeat_ngram_size": 2},
    "bans_and_bias": {
        "num_beams": 4,
        "max_new_tokens": 12,
        "stop_token_ids": STOPS[:5],
        "banned_token_ids": [66, 50],
        "logit_bias": {7: 3.5, 69: -2.0},
    },
    "all": {
        "num_beams": 3,
        "max_new_tokens": 14,
        "stop_token_ids": STOPS[8:],
        "min_new_tokens": 3,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "banned_token_ids": [66],
        "length_penalty": 0.7,
    },
}


def as_theirs(ours):
    theirs = dict(ours)
    theirs["eos_token_id"] = theirs.pop("stop_token_ids", None)
    theirs["bad_words_ids"] = [[each] for each in theirs.pop("banned_token_ids", ())] or None
    bias = theirs.pop("logit_bias", {})
    theirs["sequence_bias"] = {(token,): value for token, value in bias.items()} or None
    return theirs


@pytest.fixture(scope="module", params=some(["gpt2", "llama"], "llama"))
def pair(request, tmp_path_factory):
    """A model and the same one in transformers."""
    transformers = pytest.importorskip("transformers")
    keras.utils.set_random_seed(1)  # so that no two sequences score alike
    gpt = make_gpt(**ARCHITECTURES[request.param])
    folder = tmp_path_factory.mktemp("beam") / request.param
    gpt.save_to_huggingface(folder)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    peer.generation_config = transformers.GenerationConfig(pad_token_id=0, do_sample=False)
    return gpt, peer


@pytest.mark.parametrize("name", SETTINGS)
def test_sequences_and_scores_are_transformers(pair, name):
    import torch

    gpt, peer = pair
    ours = SETTINGS[name]
    stops = ours.get("stop_token_ids", [])
    count = ours["num_beams"]
    answers = gpt.generate(PROMPTS, **ours, num_return_sequences=count, echo=False, details=True)
    ends = set()
    for prompt, got in zip(PROMPTS, answers, strict=True):
        want = peer.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),  # 0 is no padding
            **as_theirs(ours),
            num_return_sequences=count,
            return_dict_in_generate=True,
            output_scores=True,
        )
        sequences = []
        for row in want.sequences[:, len(prompt) :].tolist():
            end = next((at for at, token in enumerate(row) if token in stops), None)
            ends.add("length" if end is None else "stop")
            sequences.append(row[:end])
        assert [answer.token_ids for answer in got] == sequences
        np.testing.assert_allclose(
            [answer.score for answer in got], want.sequences_scores.numpy(), rtol=2e-5
        )
    if stops and not ours.get("banned_token_ids"):
        assert "stop" in ends  # or the test says nothing about ends


# Against a search in plain Python, which runs the whole model at every step.


def log_probabilities(gpt, sequences):
    """Give log P of every next token after each of these sequences, all of one length."""
    known = gpt.config.vocab_size if gpt.tokenizer is None else gpt.tokenizer.vocab_size
    logits = logits_of(gpt, np.array(sequences))[:, -1, :known].astype("float64")
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def plain_search(gpt, prompt, num_beams, max_new_tokens, is_end):
    beams, found = [(0.0, [])], []
    for length in range(1, max_new_tokens + 1):
        logs = log_probabilities(gpt, [prompt + tokens for _, tokens in beams])
        candidates = [
            (total + log_p, [*tokens, token])
            for (total, tokens), row in zip(beams, logs.tolist(), strict=True)
            for token, log_p in enumerate(row)
        ]
        candidates = sorted(candidates, reverse=True)[: 2 * num_beams]
        ends = [is_end(tokens) or length == max_new_tokens for _, tokens in candidates]
        pairs = list(zip(candidates, ends, strict=True))
        found += [(total / length, tokens) for (total, tokens), end in pairs[:num_beams] if end]
        found = sorted(found, reverse=True)[:num_beams]
        beams = [beam for beam, end in pairs if not end][:num_beams]
        if not beams or (len(found) == num_beams and beams[0][0] / length <= found[-1][0]):
            break
    return found


@pytest.fixture(scope="module")
def speaker():
    """A model with a tokenizer, and a vocabulary rounded up beyond it."""
    keras.utils.set_random_seed(2)
    return make_gpt(vocab_size=320, tokenizer=small_tokenizer())


@pytest.mark.parametrize("stop", [["a"], ["e", "b", "at"], ["c", "o", "d", "t", "s"], ["zzz"]])
def test_stop_strings(speaker, stop):
    tokenizer = speaker.tokenizer
    settings = {"num_beams": 4, "max_new_tokens": 12, "stop_token_ids": []}
    for prompt in ("the cat", "Once upon"):
        ids = tokenizer.encode(prompt)

        def is_end(tokens):
            return any(each in tokenizer.decode(tokens) for each in stop)

        want = plain_search(speaker, ids, 4, 12, is_end)
        got = speaker.generate(
            prompt, stop=stop, num_return_sequences=4, details=True, echo=False, **settings
        )
        assert [answer.token_ids for answer in got] == [tokens for _, tokens in want]
        np.testing.assert_allclose([each.score for each in got], [s for s, _ in want], rtol=1e-5)
        for answer in got:
            text = tokenizer.decode(answer.token_ids)
            places = [text.find(each) for each in stop if each in text]
            assert answer.text == (text[: min(places)] if places else text)
            assert answer.finish_reason == ("stop" if places else "length")


@pytest.fixture(scope="module")
def every():
    """A model of four tokens, a prompt, and log P of all that may follow it: up to three, 0 ends."""
    keras.utils.set_random_seed(3)
    gpt = make_gpt(vocab_size=4, context_length=8, num_layers=1)
    prompt, longest = [1, 3], 3
    sequences = [
        tokens
        for length in range(1, longest + 1)
        for tokens in itertools.product(range(4), repeat=length)
        if 0 not in tokens[:-1] and (tokens[-1] == 0 or length == longest)
    ]
    totals = {
        tokens: sum(
            log_probabilities(gpt, [[*prompt, *tokens[:place]]])[0, token]
            for place, token in enumerate(tokens)
        )
        for tokens in sequences
    }
    return gpt, prompt, longest, totals


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -2.0, 3.0])
def test_enough_beams_find_every_sequence(every, length_penalty):
    gpt, prompt, longest, totals = every
    sequences = list(totals)
    scores = {tokens: total / len(tokens) ** length_penalty for tokens, total in totals.items()}
    want = sorted(sequences, key=lambda tokens: -scores[tokens])
    answers = gpt.generate(
        prompt,
        num_beams=4**longest,
        num_return_sequences=4**longest,
        max_new_tokens=longest,
        stop_token_ids=[0],
        length_penalty=length_penalty,
        details=True,
    )
    # Fewer than asked for: there are no more.
    assert len(answers) == len(sequences) == 40
    got = [(*each.token_ids, *[0] * (each.finish_reason == "stop")) for each in answers]
    assert got == want
    np.testing.assert_allclose(
        [each.score for each in answers], [scores[t] for t in want], rtol=1e-5
    )
    best = gpt.generate(
        prompt,
        num_beams=4**longest,
        max_new_tokens=longest,
        stop_token_ids=[0],
        length_penalty=length_penalty,
        echo=False,
    )
    assert best == answers[0].token_ids


# Rows, text, and settings.


@given(
    st.lists(st.integers(1, 16), min_size=4, max_size=4),  # every shape is compiled
    st.integers(0, 99),
    st.sampled_from([2, 4]),
    st.sampled_from([True, False, "never"]),
    st.sampled_from(
        [
            {},
            {"repetition_penalty": 1.3, "min_new_tokens": 3},
            {"no_repeat_ngram_size": 2, "logit_bias": {5: 2.0}, "forced_token_ids": [9, 5]},
        ]
    ),
)
@settings(max_examples=25)
def test_a_batch_gives_what_each_prompt_gives_alone(lengths, seed, num_beams, early, others):
    gpt = shared_gpt("gpt3")
    prompts = [random_ids(n, seed=seed + n).tolist() for n in lengths]
    asked = {
        "num_beams": num_beams,
        "num_return_sequences": 2,
        "max_new_tokens": 6,
        "stop_token_ids": STOPS,
        "early_stopping": early,
        "details": True,
        **others,
    }
    together = gpt.generate(prompts, **asked)
    for prompt, several in zip(prompts, together, strict=True):
        alone = gpt.generate(prompt, **asked)
        assert [each.token_ids for each in several] == [each.token_ids for each in alone]
        assert [each.finish_reason for each in several] == [each.finish_reason for each in alone]
        got, want = ([each.score for each in answers] for answers in (several, alone))
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("name", architectures("gpt3"))
def test_scores_are_those_of_the_model(name):
    """Also where the new tokens outgrow their first slots, and none of it depends on the cache."""
    gpt = shared_gpt(name)
    asked = {"num_beams": 3, "length_penalty": 0.5, "details": True, "stop_token_ids": []}
    prompts = [PROMPTS[0], PROMPTS[1]]
    for prompt, answer in zip(prompts, gpt.generate(prompts, max_length=46, **asked), strict=True):
        assert len(answer.token_ids) == 46 - len(prompt)
        total = gpt.score(answer.token_ids, given=prompt)
        assert answer.score == pytest.approx(total / len(answer.token_ids) ** 0.5, rel=1e-4)


def test_forced_tokens_come_first_and_count():
    gpt = shared_gpt("gpt2")
    asked = {"num_beams": 3, "max_new_tokens": 5, "details": True, "length_penalty": 0.0}
    answers = gpt.generate(
        PROMPTS[1], forced_token_ids=[7, 8], num_return_sequences=3, echo=False, **asked
    )
    assert [each.token_ids[:2] for each in answers] == [[7, 8]] * 3
    after = gpt.generate(
        [*PROMPTS[1], 7, 8], num_return_sequences=3, echo=False, **{**asked, "max_new_tokens": 3}
    )
    assert [each.token_ids[2:] for each in answers] == [each.token_ids for each in after]
    given = gpt.score([7, 8], given=PROMPTS[1])
    want = [each.score + given for each in after]
    assert [each.score for each in answers] == pytest.approx(want, rel=1e-4)


def test_forms_of_answers(speaker):
    asked = {"num_beams": 3, "max_new_tokens": 4}
    text = speaker.generate("the cat", **asked)
    assert text.startswith("the cat")
    assert speaker.generate(["the cat"], **asked) == [text]
    several = speaker.generate(["the cat", "Once"], num_return_sequences=2, **asked)
    assert [len(answers) for answers in several] == [2, 2]
    assert several[0][0] == text
    (best, second) = speaker.generate("the cat", num_return_sequences=2, details=True, **asked)
    assert best.text == text
    assert best.score > second.score
    assert best.logprobs is best.top_logprobs is None
    assert speaker.generate("the cat", max_new_tokens=1, details=True).score is None


def test_the_length_penalty():
    options = BeamOptions(num_beams=2, length_penalty=2.0)
    assert options.score(-8.0, 4) == -0.5
    assert BeamOptions(num_beams=2, length_penalty=0).score(-8.0, 4) == -8.0
    assert math.isclose(BeamOptions(num_beams=2, length_penalty=-1).score(-8.0, 4), -32.0)


def test_nothing_is_compiled_again():
    gpt = make_gpt(context_length=100, num_layers=1)
    asked = {"num_beams": 3, "stop_token_ids": [1]}
    penalized = {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "stop_token_ids": [1]}
    prompts = [random_ids(n, seed=n).tolist() for n in (3, 9)]
    gpt.generate(prompts, max_new_tokens=70, min_new_tokens=70, **asked)
    gpt.generate(prompts[0], max_new_tokens=70, min_new_tokens=70, **asked)
    gpt.generate(prompts, max_new_tokens=2, **asked)
    gpt.generate(prompts[0], max_new_tokens=40, **asked)
    gpt.generate(prompts[0], max_new_tokens=70, **asked)
    steps, functions = decode_steps(gpt), _functions_of(gpt, 6)
    watched = (steps.first, steps.next, steps.fold, functions.rank, functions.follow)
    counts = [num_programs(each) for each in watched]
    with nothing_compiled():
        for seed in range(3):
            others = [random_ids(n, seed=seed).tolist() for n in (20, 7)]
            for more in (
                {"length_penalty": 2.0, "early_stopping": True},
                {"early_stopping": "never", "num_return_sequences": 3},
                {**penalized, "logit_bias": {3: 1.0}},
            ):
                gpt.generate(others, max_new_tokens=5, **{**asked, **more, "min_new_tokens": 5})
                gpt.generate(others[0], max_new_tokens=40, **{**asked, **more, "min_new_tokens": 3})
    assert _functions_of(gpt, 6) is functions
    assert [num_programs(each) for each in watched] == counts


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_beams": 0}, "num_beams must be an integer, at least 1. Received: num_beams=0"),
        ({"num_beams": 2.0}, "num_beams must be an integer"),
        ({"num_beams": 2, "length_penalty": "1"}, "length_penalty must be a number from -10 to 10"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty must be a number"),
        (
            {"num_beams": 2, "early_stopping": "no"},
            "must be True, False or 'never'. Received: early",
        ),
        ({"length_penalty": 2.0}, "length_penalty must come with num_beams above 1. Received: len"),
        (
            {"early_stopping": True},
            "early_stopping must come with num_beams above 1. Received: earl",
        ),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences must be at most num_beams. Received: num_return_sequences=3, num_b",
        ),
        ({"num_beams": 2, "temperature": 0.5}, "num_beams does not go with temperature: .*=0.5"),
        ({"num_beams": 2, "top_k": 5}, "num_beams does not go with top_k: .* num_beams=2, top_k=5"),
        ({"num_beams": 2, "top_p": 0.5}, "num_beams does not go with top_p"),
        ({"num_beams": 2, "min_p": 0.5}, "num_beams does not go with min_p"),
        ({"num_beams": 2, "typical_p": 0.5}, "num_beams does not go with typical_p"),
        ({"num_beams": 2, "penalty_alpha": 0.5}, "num_beams does not go with penalty_alpha"),
        ({"num_beams": 2, "prompt_lookup": 2}, "num_beams does not go with prompt_lookup"),
        ({"num_beams": 2, "num_draft_tokens": 2}, "num_beams does not go with num_draft_tokens"),
        ({"num_beams": 2, "details": True, "logprobs": 0}, "num_beams does not go with logprobs"),
    ],
)
def test_bad_arguments(asked, message):
    with pytest.raises(ValueError, match=message):
        shared_gpt("gpt2").generate([1, 2], max_new_tokens=2, **asked)


def test_what_beams_do_not_go_with(speaker):
    with pytest.raises(ValueError, match="num_beams does not go with draft_model"):
        speaker.generate("the cat", max_new_tokens=2, num_beams=2, draft_model=speaker)
    with pytest.raises(
        ValueError, match=r"num_beams must be 1 for a stream.*use generate.*num_beams=2"
    ):
        speaker.stream("the cat", max_new_tokens=2, num_beams=2)


def test_a_constraint_does_not_go_with_beams(speaker):
    pytest.importorskip("llguidance")
    from keras_gpt.generation import Constraint

    with pytest.raises(ValueError, match="num_beams does not go with constraint"):
        speaker.generate("the cat", num_beams=2, constraint=Constraint.regex("[a-c]+"))
