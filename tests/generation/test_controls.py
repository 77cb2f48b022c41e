"""What changes the logits and ends answers, through `generate` and `stream`."""

import numpy as np
import pytest
from gpt_cases import logits_of, make_gpt, random_ids, shared_gpt, small_tokenizer
from machine_code import nothing_compiled

from keras_gpt.generation import Answer
from keras_gpt.generation.compiled import num_programs
from keras_gpt.generation.steps import decode_steps

PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 9, 17)]
NEW = 14


@pytest.fixture(scope="module")
def speaker():
    """A model with a tokenizer."""
    return make_gpt(vocab_size=320, tokenizer=small_tokenizer())


def continuations(gpt, prompts, **settings):
    settings = {"max_new_tokens": NEW, "temperature": 0, "echo": False, **settings}
    return gpt.generate(prompts, **settings)


def by_hand(gpt, prompt, change, count=NEW):
    """Choose greedily from the logits of the plain forward pass after `change(logits, ids, new)`."""
    ids = list(prompt)
    for _ in range(count):
        logits = logits_of(gpt, np.array([ids]))[0, -1].astype("float64")
        ids.append(int(change(logits, ids, ids[len(prompt) :]).argmax()))
    return ids[len(prompt) :]


def test_penalties_are_those_of_the_plain_forward_pass():
    gpt = shared_gpt("gpt3")

    def change(logits, ids, new):
        seen = np.unique(ids)
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * 1.5, logits[seen] / 1.5)
        for token in new:
            logits[token] -= 0.4
        logits[np.unique(new).astype(int)] -= 0.3
        return logits

    settings = {"repetition_penalty": 1.5, "frequency_penalty": 0.4, "presence_penalty": 0.3}
    got = continuations(gpt, PROMPTS, **settings)
    assert got == [by_hand(gpt, prompt, change) for prompt in PROMPTS]
    assert got == [continuations(gpt, prompt, **settings) for prompt in PROMPTS]
    assert got != continuations(gpt, PROMPTS)


def test_bias_and_bans():
    gpt = shared_gpt("gpt3")
    plain = continuations(gpt, PROMPTS)
    banned = sorted({row[0] for row in plain})
    got = continuations(gpt, PROMPTS, banned_token_ids=banned)
    assert not {token for row in got for token in row} & set(banned)

    def change(logits, ids, new):
        logits[banned] = -np.inf
        return logits

    assert got[0] == by_hand(gpt, PROMPTS[0], change)
    other = min(set(range(96)) - set(plain[0]))  # so that its ban changes nothing
    assert continuations(gpt, PROMPTS[0], logit_bias={other: 1e6}) == [other] * NEW
    both = {"logit_bias": {other: 1e6}, "banned_token_ids": [other]}
    assert continuations(gpt, PROMPTS[0], **both) == plain[0]


def test_no_ngram_comes_twice():
    gpt = shared_gpt("gpt3")
    for size in (1, 2, 3):
        rows = gpt.generate(
            PROMPTS[:2], max_new_tokens=30, temperature=0, no_repeat_ngram_size=size
        )
        for prompt, row in zip(PROMPTS, rows, strict=False):
            ends = range(max(len(prompt), size - 1), len(row))
            for end in ends:
                ngram = row[end - size + 1 : end + 1]
                earlier = [row[i : i + size] for i in range(end - size + 1)]
                assert ngram not in earlier


def test_forced_tokens_begin_the_answer():
    gpt = shared_gpt("gpt3")
    got = continuations(gpt, PROMPTS[1], forced_token_ids=[5, 6])
    rest = continuations(gpt, [*PROMPTS[1], 5, 6], max_new_tokens=NEW - 2)
    assert got == [5, 6, *rest]


def test_stop_tokens_wait_for_the_least_number_of_tokens():
    gpt = shared_gpt("gpt3")
    first = continuations(gpt, PROMPTS[0])[0]
    assert continuations(gpt, PROMPTS[0], stop_token_ids=[first]) == []
    held = continuations(gpt, PROMPTS[0], stop_token_ids=[first], min_new_tokens=4)
    assert len(held) >= 4
    assert first not in held[:4]


def test_a_row_without_controls_is_what_it_is_alone():
    """Controls and cut-offs of one call are inert at their neutral values."""
    gpt = shared_gpt("gpt3")
    sampled = {"temperature": 1.5, "seed": 3}
    assert continuations(gpt, PROMPTS, **sampled, min_new_tokens=1, stop_token_ids=[]) == (
        continuations(gpt, PROMPTS, **sampled)
    )
    greedy = continuations(gpt, PROMPTS)
    assert continuations(gpt, PROMPTS, min_p=1.0, temperature=2.0, seed=1) == greedy
    some = continuations(gpt, PROMPTS, typical_p=0.2, temperature=1.0, seed=1)
    assert some == [
        continuations(gpt, prompt, typical_p=0.2, temperature=1.0, seed=1) for prompt in PROMPTS
    ]


def test_no_setting_is_compiled_apart():
    gpt = shared_gpt("gpt3")
    steps = decode_steps(gpt)
    continuations(gpt, PROMPTS, min_new_tokens=1)
    continuations(gpt, PROMPTS[0], min_new_tokens=1)
    functions = (steps.first, steps.next, steps.choose_controlled)
    counts = [num_programs(function) for function in functions]
    with nothing_compiled():
        for size in (1, 2, 5):
            continuations(gpt, PROMPTS, no_repeat_ngram_size=size, repetition_penalty=1.1 * size)
            continuations(gpt, PROMPTS[0], logit_bias={size: -1.0}, forced_token_ids=[1] * size)
    assert [num_programs(function) for function in functions] == counts


def test_stop_strings_cross_tokens(speaker):
    settings = {"max_new_tokens": 30, "temperature": 2.0, "seed": 5, "stop_token_ids": []}
    whole = speaker.generate("the cat", echo=False, **settings)
    place = len(whole) // 2
    stop = whole[place : place + 3]
    want = whole[: whole.find(stop)]
    assert speaker.generate("the cat", stop=stop, echo=False, **settings) == want
    assert speaker.generate("the cat", stop=["\0\0", stop], **settings) == "the cat" + want
    assert "".join(speaker.stream("the cat", stop=stop, **settings)) == want
    answer = speaker.generate("the cat", stop=stop, echo=False, details=True, **settings)
    assert answer.text == want
    assert answer.finish_reason == "stop"
    assert len(answer.token_ids) < 30
    batch = speaker.generate(["the cat", "a mat"], stop=stop, echo=False, **settings)
    assert batch[0] == want


def test_details(speaker):
    prompt = speaker.tokenizer.encode("the cat")
    answer = speaker.generate(prompt, max_new_tokens=5, temperature=0, details=True, logprobs=3)
    assert isinstance(answer, Answer)
    assert answer.text is None
    assert answer.finish_reason == "length"
    assert answer.token_ids == continuations(speaker, prompt, max_new_tokens=5)
    known = speaker.tokenizer.vocab_size
    logits = logits_of(speaker, np.array([prompt + answer.token_ids]))[
        0, len(prompt) - 1 : -1, :known
    ]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = logs[np.arange(5), answer.token_ids]
    np.testing.assert_allclose(answer.logprobs, chosen, atol=1e-4)
    for row, top in zip(logs, answer.top_logprobs, strict=True):
        assert list(top) == np.argsort(-row)[:3].tolist()
        np.testing.assert_allclose(list(top.values()), np.sort(row)[::-1][:3], atol=1e-4)
    (pair,) = speaker.generate(
        ["the cat"], max_new_tokens=2, num_return_sequences=2, details=True, logprobs=0, seed=0
    )
    assert [len(each.logprobs) for each in pair] == [2, 2]
    assert [each.top_logprobs for each in pair] == [[{}, {}]] * 2
    assert all(each.text.startswith("the cat") for each in pair)
    plain = speaker.generate("the cat", max_new_tokens=2, temperature=0, details=True)
    assert (plain.logprobs, plain.top_logprobs) == (None, None)
    end = plain.token_ids[1]
    stopped = speaker.generate(
        "the cat", max_new_tokens=2, temperature=0, details=True, stop_token_ids=[end]
    )
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(end)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_p": -0.1}, "min_p must be from 0 to 1"),
        ({"typical_p": 0}, "typical_p must be above 0"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a positive"),
        ({"presence_penalty": float("nan")}, "presence_penalty must be a finite"),
        ({"frequency_penalty": "1"}, "frequency_penalty must be a finite"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size must be an integer"),
        ({"min_new_tokens": -1}, "min_new_tokens must be an integer"),
        ({"logit_bias": [1]}, "logit_bias must be a dictionary"),
        ({"logit_bias": {96: 1.0}}, "logit_bias must hold ids"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias must give each id"),
        ({"banned_token_ids": [-1]}, "banned_token_ids must hold ids"),
        ({"banned_token_ids": list(range(96))}, "must leave at least one id"),
        ({"forced_token_ids": "a"}, "forced_token_ids must be a list of ids"),
        ({"forced_token_ids": [96]}, "forced_token_ids must hold ids"),
        ({"stop": "x"}, "stop needs prompts that are text"),
        ({"stop": [""]}, "stop must be strings"),
        ({"logprobs": 21, "details": True}, "logprobs must be an integer, from 0 to 20"),
        ({"logprobs": 1}, "pass details=True"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        shared_gpt("gpt3").generate([1, 2], max_new_tokens=1, **settings)
