"""Answers beyond the context: what a slow computation from keys that were never turned gives."""

import numpy as np
import pytest
from attention_reference import softmax
from gpt_cases import ARCHITECTURES, make_gpt, random_ids, shared_gpt, small_tokenizer

from keras_gpt.generation import Constraint, Engine
from keras_gpt.generation.endless import count_evicted

CONTEXT, SINKS = 40, 3
LLAMA = {**ARCHITECTURES["llama"], "context_length": CONTEXT, "rotary_base": 100.0}
YARN = {"method": "yarn", "factor": 2, "original_context_length": 20, "beta_fast": 1.5}
# The second fills the context with its first step.
PROMPTS = [random_ids(n, seed=n).tolist() for n in (5, CONTEXT - 1)]
NEW = 70


@pytest.fixture(scope="module")
def gpt():
    return make_gpt(**LLAMA, rotary_scaling={**YARN, "beta_slow": 0.2})


@pytest.fixture(scope="module")
def answers(gpt):
    return gpt.generate(PROMPTS, max_new_tokens=NEW, temperature=0, attention_sinks=SINKS)


def _seen(prompt_length, length):
    """List, for each token of a row, the tokens that it sees, in their order within the cache."""
    kept = list(range(prompt_length))
    seen = [kept[: token + 1] for token in kept]
    for token in range(prompt_length, length):
        if len(kept) == CONTEXT:
            kept = kept[:SINKS] + kept[SINKS + count_evicted(CONTEXT, SINKS) :]
        kept = [*kept, token]
        seen.append(kept)
    return seen


def _turned(vectors, scaling, base):
    """Turn (tokens, heads, size) by their places, 0, 1, 2 and so on."""
    half = vectors.shape[-1] // 2
    angles = np.arange(len(vectors))[:, None] * scaling.frequencies(2 * half, base)
    turn = scaling.multiplier * np.exp(1j * angles)[:, None, :]
    z = (vectors[..., :half] + 1j * vectors[..., half:]) * turn
    return np.concatenate([z.real, z.imag], axis=-1)


def _attend(layer, states, seen):
    config = layer.gpt_config
    heads, kv_heads, size = config.num_heads, config.key_value_heads, config.head_dim
    projected = states.astype("float64") @ np.asarray(layer.qkv.kernel, "float64")
    ends = [heads * size, (heads + kv_heads) * size]
    q, k, v = (part.reshape(len(states), -1, size) for part in np.split(projected, ends, axis=1))
    out = np.zeros((len(states), heads, size))
    for token, places in enumerate(seen):
        keys = _turned(k[places], config.rotary_scaling, config.rotary_base)
        # The token itself stands last: its query has the place of its key.
        queries = np.zeros((len(places), heads, size))
        queries[-1] = q[token]
        query = _turned(queries, config.rotary_scaling, config.rotary_base)[-1]
        for head in range(heads):
            shared = head // (heads // kv_heads)
            weights = softmax(keys[:, shared] @ query[head] / np.sqrt(size))
            out[token, head] = weights @ v[places, shared]
    out = out.reshape(len(states), -1) @ np.asarray(layer.projection.kernel, "float64")
    return out.astype("float32")


def _logits(gpt, ids, prompt_length):
    seen = _seen(prompt_length, len(ids))
    x = np.asarray(gpt.token_embedding(np.array(ids)))
    for block in gpt.blocks:
        x = x + _attend(block.attention, np.asarray(block.attention_norm(x)), seen)
        x = x + np.asarray(block.feed_forward(block.feed_forward_norm(x[None])))[0]
    return np.asarray(gpt.next_logits(x))


def test_tokens_are_those_of_keys_that_were_never_turned_before(gpt, answers):
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert len(answer) == len(prompt) + NEW
        logits = _logits(gpt, answer[:-1], len(prompt))[len(prompt) - 1 :]
        best = np.sort(logits, axis=-1)
        assert (best[:, -1] - best[:, -2]).min() > 1e-4  # no tie that rounding could decide
        assert answer[len(prompt) :] == logits.argmax(-1).tolist()


def test_log_probabilities_are_those_of_the_reference(gpt):
    got = gpt.generate(
        PROMPTS[1],
        max_new_tokens=NEW,
        attention_sinks=SINKS,
        repetition_penalty=1.3,
        seed=4,
        details=True,
        logprobs=0,
    )
    logits = _logits(gpt, [*PROMPTS[1], *got.token_ids[:-1]], len(PROMPTS[1]))
    wanted = np.log(softmax(logits[len(PROMPTS[1]) - 1 :].astype("float64")))
    expected = wanted[np.arange(NEW), got.token_ids]
    np.testing.assert_allclose(got.logprobs, expected, atol=1e-4)


def test_within_the_context_nothing_changes(gpt, answers):
    plain = gpt.generate(PROMPTS[0], temperature=0)
    assert len(plain) == CONTEXT
    assert answers[0][:CONTEXT] == plain
    bounded = gpt.generate(PROMPTS[0], max_length=60, temperature=0, attention_sinks=SINKS)
    assert bounded == answers[0][:60]


def test_a_stream_goes_on_until_nobody_wants_more(gpt, answers):
    stream = gpt.stream(PROMPTS[0], max_new_tokens=10**6, temperature=0, attention_sinks=SINKS)
    tokens = [next(stream) for _ in range(NEW)]
    stream.close()
    assert [*PROMPTS[0], *tokens] == answers[0]


def test_a_prompt_that_is_too_long_is_cut_as_elsewhere(gpt):
    long = random_ids(60, seed=1).tolist()
    settings = {"max_new_tokens": 50, "attention_sinks": SINKS}
    with pytest.raises(ValueError, match="fit the context of 40 tokens"):
        gpt.generate(long, **settings)
    answer = gpt.generate(long, truncate="middle", details=True, seed=0, **settings)
    assert answer.dropped_prompt_tokens == 21
    assert len(answer.token_ids) == 50


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"attention_sinks": 0}, "attention_sinks=0"),
        ({"attention_sinks": CONTEXT - 1}, f"attention_sinks={CONTEXT - 1}"),
        ({"attention_sinks": True}, "attention_sinks=True"),
        ({"max_new_tokens": None}, "must come with max_new_tokens or max_length"),
        ({"no_repeat_ngram_size": 2}, "does not go with no_repeat_ngram_size"),
        ({"num_beams": 2}, "num_beams does not go with attention_sinks"),
        ({"penalty_alpha": 0.5, "top_k": 2}, "penalty_alpha does not go with attention_sinks"),
        ({"prompt_lookup": 2}, "does not go with draft_model or prompt_lookup"),
    ],
)
def test_what_sinks_do_not_go_with_is_refused(gpt, others, message):
    settings = {"max_new_tokens": 60, "attention_sinks": SINKS, **others}
    with pytest.raises(ValueError, match=message):
        gpt.generate([1, 2], **settings)


def test_a_constraint_is_refused():
    pytest.importorskip("llguidance")
    speaker = make_gpt(**LLAMA, vocab_size=300, tokenizer=small_tokenizer())
    with pytest.raises(ValueError, match="attention_sinks does not go with constraint"):
        speaker.generate(
            "the", constraint=Constraint.regex("a+"), max_new_tokens=60, attention_sinks=SINKS
        )


def test_models_and_an_engine_that_cannot_are_refused(gpt):
    for name in ("gpt2", "gpt3"):
        with pytest.raises(ValueError, match=r"rotary positions and without windows"):
            shared_gpt(name).generate([1], max_new_tokens=60, attention_sinks=SINKS)
    with Engine(gpt) as engine, pytest.raises(ValueError, match="must be None in an engine"):
        engine.submit([1], max_new_tokens=60, attention_sinks=SINKS)


@pytest.mark.parametrize(("context", "sinks"), [(3, 1), (40, 38), (2048, 4)])
def test_a_full_row_drops_less_than_it_has(context, sinks):
    assert 1 <= count_evicted(context, sinks) <= context - sinks - 1
