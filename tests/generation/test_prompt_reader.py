"""`PromptReader`: pieces of a prompt leave what reading it at once leaves."""

import numpy as np
import pytest
from gpt_cases import make_gpt, random_ids

from keras_gpt.generation.batch import read_at_once
from keras_gpt.generation.prompt_reader import Beginnings, PromptReader, first_widths, next_widths
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import SamplingOptions


@pytest.fixture(scope="module")
def gpt():
    """A model whose pasts have two lengths in an engine, 128 and 200."""
    return make_gpt(context_length=200, attention_windows=(None, 20))


def read(gpt, prompt, beginnings, chunk=50):
    reader, steps = PromptReader(gpt, prompt, chunk, beginnings), 1
    while (found := reader.advance()) is None:
        steps += 1
    return found, steps


def test_pieces_leave_what_reading_at_once_leaves(gpt):
    beginnings = Beginnings(2**20)
    shared = random_ids(140, seed=1).tolist()
    for prompt, steps, length in (
        (shared[:9], 1, 128),
        (shared, 3, 200),
        (shared[:20] + random_ids(30, seed=2).tolist(), 1, 128),  # a part of what is kept
        (shared[:100] + random_ids(90, seed=3).tolist(), 2, 200),
        (shared[:100], 1, 128),  # nothing is left but its last token
    ):
        got, count = read(gpt, prompt, beginnings)
        want = read_at_once(gpt, [Row(prompt, 1, SamplingOptions(seed=0))])
        assert count == steps
        np.testing.assert_allclose(got.logits, want.logits, atol=2e-5)
        assert [layer.keys.shape[2] for layer in got.past] == [length, 20]
        keys, wanted = np.asarray(got.past[0].keys), np.asarray(want.past[0].keys)
        np.testing.assert_allclose(
            keys[:, :, : len(prompt)], wanted[:, :, : len(prompt)], atol=2e-5
        )


def test_widths_are_few_and_hold_every_piece():
    assert first_widths(128) == [32, 48, 64, 96, 128]
    assert first_widths(50) == [32, 48, 50]
    assert first_widths(8) == [8]
    assert next_widths(128) == [32, 128]
    assert next_widths(8) == [8]
