"""Layers with a window keep only the window, and every way of decoding gives what it gave before."""

import numpy as np
import pytest
from gpt_cases import logits_of, make_gpt, random_ids
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_gpt import GPTConfig
from keras_gpt.generation import Engine
from keras_gpt.generation.batch import Batch, read_at_once
from keras_gpt.generation.cache import RECENT_SLOTS, grow_past, keep_windows, length_bucket
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import SamplingOptions
from keras_gpt.key_values import KeyValues, put_in_ring, ring_positions

WINDOWS = (7, 40, None)
# Shorter than both windows, between them, and longer: the rings are turned several times.
PROMPTS = [random_ids(n, seed=n).tolist() for n in (3, 30, 90)]
CONFIG = GPTConfig(
    vocab_size=8,
    embedding_dim=4,
    num_heads=1,
    feed_forward_dim=4,
    num_layers=3,
    context_length=170,
    attention_windows=WINDOWS,
)
NEW = 2 * RECENT_SLOTS + 6


@pytest.fixture(scope="module")
def gpt():
    return make_gpt(context_length=170, num_layers=3, attention_windows=WINDOWS)


@pytest.fixture(scope="module")
def greedy(gpt):
    return gpt.generate(PROMPTS, max_new_tokens=NEW, temperature=0)


def _places(past):
    return [layer.keys.shape[2] for layer in past]


def test_greedy_tokens_are_those_of_the_forward_pass(gpt, greedy):
    for prompt, answer in zip(PROMPTS, greedy, strict=True):
        assert len(answer) == len(prompt) + NEW
        logits = logits_of(gpt, np.array([answer[:-1]]))[0]
        assert answer[len(prompt) :] == logits.argmax(-1)[len(prompt) - 1 :].tolist()


def test_no_layer_keeps_more_than_its_window(gpt):
    rows = [Row(prompt, NEW, SamplingOptions(temperature=0, seed=0)) for prompt in PROMPTS]
    read = read_at_once(gpt, rows)
    assert _places(read.past) == [7, 40, 128]
    batch = Batch(gpt, rows, read)
    for _ in range(NEW - 1):
        batch.step(range(3))
    assert _places(batch._past) == [7, 40, 170]
    short = read_at_once(gpt, rows[:1])
    assert _places(short.past) == [7, 32, 32]


def test_an_engine_reads_chunks_and_shares_beginnings(gpt, greedy):
    prompts = [[*PROMPTS[2][:80], *random_ids(n, seed=n).tolist()] for n in (2, 9)]
    alone = gpt.generate(prompts, max_new_tokens=NEW, temperature=0, echo=False)
    alone += [answer[len(prompt) :] for prompt, answer in zip(PROMPTS, greedy, strict=True)]
    with Engine(gpt, max_batch=4, chunk=16) as engine:
        settings = {"max_new_tokens": NEW, "temperature": 0}
        requests = [engine.submit(prompt, **settings) for prompt in [*prompts, *PROMPTS]]
        got = [request.result(timeout=120).token_ids for request in requests]
    assert got == alone


def test_guessed_tokens_change_nothing(gpt, greedy):
    got = gpt.generate(PROMPTS[2], max_new_tokens=NEW, temperature=0, prompt_lookup=1)
    assert got == greedy[2]


def test_beams_have_the_scores_of_the_forward_pass(gpt):
    wanted = {"max_new_tokens": NEW, "num_beams": 3, "length_penalty": 0.0, "details": True}
    for prompt, answer in zip(PROMPTS[1:], gpt.generate(PROMPTS[1:], **wanted), strict=True):
        expected = gpt.score(answer.token_ids, given=prompt)
        assert answer.score == pytest.approx(expected, abs=1e-3)


def _row_of(tokens, size):
    """Keys and values (1, 1, size, 1) that hold each token's number at its own place."""
    values = np.zeros((1, 1, size, 1), "float32")
    values[0, 0, : len(tokens), 0] = tokens
    return KeyValues(values, -values)


@settings(max_examples=60)
@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=6))
def test_a_ring_holds_the_last_tokens(size, folds):
    """Whatever counts go in, and whatever lies behind those that count."""
    ring, length = _row_of([], size), 0
    for count, unused in folds:
        new = [*range(length, length + count), *[-7.0] * unused]
        if new:
            counts = np.array([count], "int32")
            ring = put_in_ring(ring, _row_of(new, len(new)), np.array([length], "int32"), counts)
        length += count
    positions = np.asarray(ring_positions(np.array([length], "int32"), size))[0]
    wanted = {place % size: place for place in range(max(0, length - size), length)}
    assert {at: p for at, p in enumerate(positions.tolist()) if p >= 0} == wanted
    for place, position in wanted.items():
        assert float(ring.keys[0, 0, place, 0]) == position
        assert float(ring.values[0, 0, place, 0]) == -position


@settings(max_examples=40)
@given(st.integers(1, 170))
def test_a_prompt_leaves_what_reading_it_token_by_token_leaves(length):
    bucket = length_bucket(length, 170)
    whole = [_row_of(range(length), bucket)] * 3
    past = keep_windows(whole, np.array([length], "int32"), CONFIG)
    assert _places(past) == [min(bucket, window or bucket) for window in WINDOWS]
    grown = grow_past(past, 170, CONFIG)
    assert _places(grown) == [7, 40, 170]
    for layer in grown:
        size = layer.keys.shape[2]
        one_by_one = _row_of([], size)
        for token in range(length):
            one_by_one.keys[0, 0, token % size, 0] = token
        held = min(length, size)
        np.testing.assert_array_equal(
            np.asarray(layer.keys)[:, :, :held], one_by_one.keys[:, :, :held]
        )
