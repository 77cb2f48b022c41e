"""Cutting prompts: whatever the lengths, what is left fits and stands in its order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_gpt.generation.truncation import WAYS, fit_prompt


@given(st.integers(1, 40), st.integers(2, 20), st.data(), st.sampled_from(WAYS))
def test_as_much_is_kept_as_fits(length, context, data, way):
    new = data.draw(st.integers(1, context - 1))
    ids = list(range(length))
    kept, (start, dropped) = fit_prompt(ids, "prompt", context, new, way)
    assert len(kept) == min(length, context - new)
    assert len(kept) + dropped == length
    assert kept == [*ids[:start], *ids[start + dropped :]]
    gaps = [(a, b) for a, b in itertools.pairwise(kept) if b != a + 1]
    assert len(gaps) <= (way == "middle")
    if dropped and way == "left":
        assert kept[-1] == length - 1
    if dropped and way == "right":
        assert kept[0] == 0
    if gaps:  # as much of the beginning as of the end
        ((before, after),) = gaps
        assert (length - after) - (before + 1) in (0, 1)


def test_new_tokens_that_fill_the_context_leave_no_prompt():
    with pytest.raises(ValueError, match="prompt 3 and the new tokens must fit the context of 8"):
        fit_prompt([1, 2], "prompt 3", 8, 8, "left")
