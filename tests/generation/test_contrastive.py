"""Contrastive search: the paper's equation without a cache, each row as alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gpt_cases import (
    ARCHITECTURES,
    CONTEXT,
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

from keras_gpt.generation.compiled import num_programs
from keras_gpt.generation.contrastive import _functions_of
from keras_gpt.generation.processors import bias_rows
from keras_gpt.generation.steps import decode_steps

PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 9, 17, 25, 30)]


class Reference:
    """The equation in float64, for all candidates of a token at once, the whole model each time."""

    def __init__(self, gpt):
        self._gpt = gpt

        def run(token_ids):
            states = gpt.hidden_states(token_ids)
            return states, gpt.project(states)

        self._run = tf.function(run, autograph=False)  # one shape

    def _states_and_logits(self, rows, width):
        token_ids = np.zeros((width, CONTEXT), "int32")  # what lies behind a token does not count
        for index, row in enumerate(rows):
            token_ids[index, : len(row)] = row
        found = self._run(tf.constant(token_ids))
        return [np.asarray(each)[: len(rows), : len(rows[0])].astype("float64") for each in found]

    def answer(self, prompt, alpha, top_k, new, change=lambda logits, tokens: logits):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + new:
            _, logits = self._states_and_logits([tokens], top_k)
            logits = change(logits[0, -1], tokens)
            p = np.exp(logits - logits.max())
            p /= p.sum()
            candidates = [v for v in np.argsort(-p, kind="stable")[:top_k] if p[v] > 0]
            states, _ = self._states_and_logits([[*tokens, v] for v in candidates], top_k)
            scores = []
            for v, row in zip(candidates, states, strict=True):
                norms = np.linalg.norm(row, axis=1)
                cosines = row[:-1] @ row[-1] / (norms[:-1] * norms[-1])
                scores.append((1 - alpha) * p[v] - alpha * cosines.max())
            tokens.append(int(candidates[int(np.argmax(scores))]))
        return tokens


def new_weights(gpt, seed):
    rng = np.random.default_rng(seed)
    for weight in gpt.weights:
        scale = 0.3 if len(weight.shape) > 1 else 0.05
        base = 1.0 if weight.path.endswith(("gamma", "scale")) else 0.0
        weight.assign(base + scale * rng.normal(size=weight.shape))


@pytest.mark.parametrize("name", some(["gpt1", "gpt2", "gpt3", "llama"], "gpt3", "llama"))
def test_tokens_are_the_equation_s(name):
    gpt = make_gpt(**ARCHITECTURES[name])
    reference = Reference(gpt)
    differ_from_greedy = 0
    for seed, alpha in enumerate((0.6, 0.2, 0.9, 1.0)):
        new_weights(gpt, seed)
        got = gpt.generate(PROMPTS, penalty_alpha=alpha, top_k=5, max_new_tokens=8)
        for prompt, answer in zip(PROMPTS, got, strict=True):
            assert answer == reference.answer(prompt, alpha, 5, 8)
        differ_from_greedy += got != gpt.generate(PROMPTS, temperature=0, max_new_tokens=8)
    assert differ_from_greedy == 4


def test_tokens_that_outgrow_their_slots():
    gpt = shared_gpt("gpt3")
    want = Reference(gpt).answer(PROMPTS[1], 0.5, 4, CONTEXT - 9)
    assert gpt.generate(PROMPTS[1], penalty_alpha=0.5, top_k=4) == want
    # Beside others, of which one ends long before it.
    beside = gpt.generate([*PROMPTS[::-1], PROMPTS[1]], penalty_alpha=0.5, top_k=4)
    assert beside[-1] == want
    assert [len(answer) for answer in beside] == [CONTEXT] * 6


def test_penalties_bans_and_forced_tokens():
    gpt, prompt, new = shared_gpt("gpt2"), PROMPTS[2], 8
    bias = bias_rows({5: 2.0}, [int(t) for t in random_ids(20, seed=8)], 96)

    def change(logits, tokens):
        logits = logits + bias
        for token in set(tokens):
            logits[token] *= 1.5 if logits[token] < 0 else 1 / 1.5
        if len(tokens) == len(prompt):
            logits[np.arange(96) != 77] = -np.inf
        return logits

    got = gpt.generate(
        prompt,
        penalty_alpha=0.6,
        top_k=6,
        max_new_tokens=new,
        logit_bias={5: 2.0},
        banned_token_ids=random_ids(20, seed=8),
        repetition_penalty=1.5,
        forced_token_ids=[77],
    )
    assert got == Reference(gpt).answer(prompt, 0.6, 6, new, change)
    # Where fewer tokens are left than there are candidates, no banned one is taken.
    left = gpt.generate(
        prompt,
        penalty_alpha=0.9,
        top_k=6,
        max_new_tokens=new,
        banned_token_ids=range(2, 96),
        echo=False,
    )
    assert set(left) <= {0, 1}


@given(
    st.lists(st.integers(1, 30), min_size=4, max_size=4),  # every shape is compiled
    st.integers(0, 99),
    st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    st.sampled_from([{}, {"repetition_penalty": 1.3, "min_new_tokens": 3}]),
)
@settings(max_examples=20)
def test_a_batch_gives_what_each_prompt_gives_alone(lengths, seed, alpha, others):
    gpt = shared_gpt("gpt3")
    prompts = [random_ids(n, seed=seed + n).tolist() for n in lengths]
    asked = {"penalty_alpha": alpha, "top_k": 4, "max_new_tokens": 8, **others}
    asked["stop_token_ids"] = list(range(3, 96, 6))
    together = gpt.generate(prompts, **asked)
    assert together == [gpt.generate(prompt, **asked) for prompt in prompts]
    if alpha == 0:
        del asked["penalty_alpha"], asked["top_k"]
        assert together == gpt.generate(prompts, temperature=0, **asked)


def test_one_candidate_is_greedy_and_more_than_there_are_is_all():
    gpt = shared_gpt("gpt2")
    greedy = gpt.generate(PROMPTS, temperature=0, max_new_tokens=6)
    assert gpt.generate(PROMPTS, penalty_alpha=0.6, top_k=1, max_new_tokens=6) == greedy
    every = gpt.generate(PROMPTS[0], penalty_alpha=0.9, top_k=96, max_new_tokens=4)
    assert gpt.generate(PROMPTS[0], penalty_alpha=0.9, top_k=10**6, max_new_tokens=4) == every


def test_log_probabilities_are_the_model_s():
    gpt = shared_gpt("llama")
    answer = gpt.generate(
        PROMPTS[1],
        penalty_alpha=0.6,
        top_k=4,
        max_new_tokens=6,
        repetition_penalty=1.2,
        details=True,
        logprobs=3,
    )
    logits = logits_of(gpt, np.array([[*PROMPTS[1], *answer.token_ids]]))[0, 8:-1]
    logs = np.asarray(keras.ops.log_softmax(logits))
    want = logs[np.arange(6), answer.token_ids]
    np.testing.assert_allclose(answer.logprobs, want, atol=1e-4)
    for row, top in zip(logs, answer.top_logprobs, strict=True):
        assert [*top] == np.argsort(-row)[:3].tolist()
        np.testing.assert_allclose([*top.values()], np.sort(row)[::-1][:3], atol=1e-4)
    assert answer.score is None


def test_text_stops_and_streams():
    gpt = make_gpt(vocab_size=320, tokenizer=small_tokenizer())
    asked = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 12, "stop_token_ids": []}
    whole = gpt.generate("the cat", echo=False, details=True, **asked)
    assert len(whole.token_ids) == 12
    assert max(whole.token_ids) < gpt.tokenizer.vocab_size
    assert "".join(gpt.stream("the cat", **asked)) == whole.text
    stop = whole.text[2:4]
    cut = gpt.generate(["Once", "the cat"], echo=False, details=True, stop=stop, **asked)[1]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    token = whole.token_ids[5]
    ended = gpt.generate(
        "the cat", echo=False, details=True, **{**asked, "stop_token_ids": [token]}
    )
    assert ended.token_ids == whole.token_ids[: whole.token_ids.index(token)]


def test_nothing_is_compiled_again():
    gpt = make_gpt(context_length=100, num_layers=1)
    prompts = [random_ids(n, seed=n).tolist() for n in (3, 9)]
    asked = {"top_k": 4, "max_length": 60}
    for more in ({}, {"repetition_penalty": 1.2}):
        gpt.generate(prompts, penalty_alpha=0.6, **asked, **more)
    steps, functions = decode_steps(gpt), _functions_of(gpt)
    watched = (functions.read, functions.step, steps.fold)
    counts = [num_programs(each) for each in watched]
    with nothing_compiled():
        for seed in range(3):
            others = [random_ids(n, seed=seed).tolist() for n in (20, 7)]
            gpt.generate(others, penalty_alpha=seed / 2, **asked)
            gpt.generate(others, penalty_alpha=0.3, no_repeat_ngram_size=3, **asked)
    assert _functions_of(gpt) is functions
    assert [num_programs(each) for each in watched] == counts


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"penalty_alpha": 1.5},
            "penalty_alpha must be a number from 0 to 1. Received: penalty_al",
        ),
        ({"penalty_alpha": "x"}, "penalty_alpha must be a number from 0 to 1"),
        ({"top_k": None}, "penalty_alpha must come with top_k"),
        ({"temperature": 0}, "penalty_alpha does not go with temperature: .*temperature=0"),
        ({"top_p": 0.5}, "penalty_alpha does not go with top_p: .* penalty_alpha=0.6, top_p=0.5"),
        ({"min_p": 0.5}, "penalty_alpha does not go with min_p"),
        ({"typical_p": 0.5}, "penalty_alpha does not go with typical_p"),
        ({"num_return_sequences": 2}, "penalty_alpha does not go with num_return_sequences: .*=2"),
        ({"prompt_lookup": 2}, "penalty_alpha does not go with prompt_lookup"),
        ({"num_draft_tokens": 2}, "penalty_alpha does not go with num_draft_tokens"),
    ],
)
def test_bad_arguments(asked, message):
    asked = {"penalty_alpha": 0.6, "top_k": 4, **asked}
    with pytest.raises(ValueError, match=message):
        shared_gpt("gpt2").generate([1, 2], max_new_tokens=2, **asked)


def test_what_it_does_not_go_with():
    gpt = make_gpt(vocab_size=320, tokenizer=small_tokenizer(), num_layers=1)
    asked = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 2}
    with pytest.raises(ValueError, match="penalty_alpha does not go with draft_model"):
        gpt.stream("the cat", draft_model=gpt, **asked)
    pytest.importorskip("llguidance")
    from keras_gpt.generation import Constraint

    with pytest.raises(ValueError, match="penalty_alpha does not go with constraint"):
        gpt.generate("the cat", constraint=Constraint.regex("[a-c]+"), **asked)
