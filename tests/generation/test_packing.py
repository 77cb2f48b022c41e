"""Packing: nothing is lost, nothing is mixed up, a context is read once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_gpt.generation.packing import Request, length_of_row, pack

IDS = st.lists(st.integers(1, 9), min_size=1, max_size=300)
# Few contexts, so that some are shared; an id is never 0, which is padding.
REQUESTS = st.lists(
    st.builds(Request, st.sampled_from([[1], [1, 2], [5] * 40, [7] * 3000]), IDS),
    min_size=1,
    max_size=30,
)


def packed(requests):
    return list(pack(requests))


@given(REQUESTS)
def test_each_scored_token_follows_what_it_is_given(requests):
    """From its state's place, by segment, branch and position, its whole sequence can be read."""
    owners = [(i, t) for i, each in enumerate(requests) for t in range(len(each.continuation))]
    seen = set()
    for batch in packed(requests):
        ids, positions, segments, branches = [np.asarray(each) for each in batch[:4]]
        length = ids.shape[1]
        for place, token in zip(batch.places, batch.tokens, strict=True):
            assert token not in seen
            seen.add(token)
            index, offset = owners[token]
            if offset not in (0, len(requests[index].continuation) - 1):
                continue  # the ends say enough, and are fewer
            line, column = divmod(place, length)
            mine = segments[line] == segments[line, column]
            mine &= (branches[line] == 0) | (branches[line] == branches[line, column])
            mine &= positions[line] <= positions[line, column]
            context, continuation = requests[index]
            assert ids[line][mine].tolist() == [*context, *continuation[:offset]]
            assert positions[line][mine].tolist() == list(range(len(context) + offset))
    assert len(seen) == len(owners)


@given(REQUESTS)
def test_rows_are_filled_and_batches_bounded(requests):
    """A batch holds no more than promised, unless one row alone does."""
    batches = packed(requests)
    for batch in batches:
        rows, length = batch.token_ids.shape
        assert rows == 1 or rows * length <= 2048
        assert (batch.segments[batch.token_ids != 0] > 0).all()
        assert (batch.token_ids[batch.segments == 0] == 0).all()
    assert sum(batch.num_requests for batch in batches) == len(requests)


def test_a_context_is_read_once():
    """Four answers to each of ten questions: the questions' tokens are there once."""
    requests = [Request([10 + q] * 20, [1, 2, 3 + a]) for q in range(10) for a in range(4)]
    batches = packed(requests)
    assert sum((batch.token_ids >= 10).sum() for batch in batches) == 10 * 20
    assert sum((batch.token_ids != 0).sum() for batch in batches) == 10 * (20 + 4 * 2)
    # What one token tells needs no reading beyond the context.
    (batch,) = packed([Request([5, 6], [token]) for token in range(96)])
    assert batch.token_ids.shape == (1, 32)
    assert (batch.places == 1).all()


def test_a_context_with_very_many_continuations_is_read_in_bounded_rows():
    """A row of all of them would need attention of its length squared."""
    requests = [Request([3] * 100, [4] * 51)] * 200
    batches = packed(requests)
    assert {batch.token_ids.shape[1] for batch in batches} == {256}
    # Three continuations of 50 read tokens fit behind 100.
    assert sum((batch.token_ids == 3).sum() for batch in batches) == 100 * -(-200 // 3)


def test_many_short_texts_have_one_shape():
    """Each shape is a program; one text alone needs no long row."""
    rng = np.random.default_rng(0)
    texts = [Request([1], [2] * int(n)) for n in rng.integers(5, 90, 300)]
    batches = packed(texts)
    assert {batch.token_ids.shape for batch in batches} == {(8, 256)}
    full = [(batch.segments > 0).mean() for batch in batches[:-1]]
    assert np.mean(full) > 0.95
    assert [batch.token_ids.shape for batch in packed(texts[:1])] == [
        (1, length_of_row(len(texts[0].continuation)))
    ]


def test_what_has_no_continuation_is_not_read():
    """There is nothing to score."""
    assert packed([Request([1], [])]) == []
    (batch,) = packed([Request([1], []), Request([2], [3])])
    assert batch.tokens.tolist() == [0]
    assert batch.token_ids[0, :2].tolist() == [2, 0]


@given(st.integers(1, 5000))
def test_lengths_of_rows_are_few_and_hold_the_tokens(length):
    """Never shorter, never half empty."""
    assert length <= length_of_row(length) <= max(32, length * 1.5)


@pytest.mark.parametrize(("length", "row"), [(1, 32), (33, 48), (49, 64), (65, 96), (97, 128)])
def test_lengths_of_rows(length, row):
    assert length_of_row(length) == row
