import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_gpt.layers import attention_mask, branch_mask, token_positions


@st.composite
def cases(draw):
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    flags = st.lists(st.booleans(), min_size=time, max_size=time)
    rows = st.lists(st.integers(0, 2), min_size=time, max_size=time)
    padding = np.array([draw(flags) for _ in range(batch)])
    segments = np.array([sorted(draw(rows)) for _ in range(batch)], "int32")
    prefixes = np.array([draw(st.integers(0, time)) for _ in range(batch)], "int32")
    window = draw(st.one_of(st.none(), st.integers(1, time + 1)))
    return time, padding, segments, prefixes, window


@given(cases(), st.booleans(), st.booleans(), st.booleans())
def test_mask_says_who_sees_whom(case, with_padding, with_segments, with_prefix):
    time, padding, segments, prefixes, window = case
    got = np.asarray(
        attention_mask(
            time,
            window,
            padding if with_padding else None,
            prefixes if with_prefix else None,
            segments if with_segments else None,
        )
    )
    got = np.broadcast_to(got, (len(padding), 1, time, time))
    for row in range(len(padding)):
        for q in range(time):
            for k in range(time):
                seen = k <= q
                if with_prefix:
                    seen = seen or (q < prefixes[row] and k < prefixes[row])
                if window is not None:
                    seen = seen and abs(q - k) < window
                if with_padding:
                    seen = seen and padding[row, k]
                if with_segments:
                    seen = seen and segments[row, q] == segments[row, k]
                assert got[row, 0, q, k] == seen


@given(st.data(), st.booleans(), st.one_of(st.none(), st.integers(1, 6)))
def test_branches_see_their_context_and_themselves(data, both_ways, window):
    # Contexts of a row, each with the lengths of what stands behind it.
    lengths = st.lists(st.integers(0, 3), max_size=3)
    segments, branches, positions = [], [], []
    for segment in range(data.draw(st.integers(1, 3))):
        context = data.draw(st.integers(1, 4))
        for branch, length in enumerate([context, *data.draw(lengths)]):
            segments += [segment] * length
            branches += [branch] * length
            positions += range(context if branch else 0, (context if branch else 0) + length)
    time = len(segments)
    got = np.asarray(
        branch_mask(*[np.array([x]) for x in (positions, segments, branches)], window, both_ways)
    )
    assert got.shape == (1, 1, time, time)
    for q in range(time):
        for k in range(time):
            # Where a branch stands alone, its own sequence is its context and itself.
            seen = segments[q] == segments[k] and branches[k] in (0, branches[q])
            in_context = branches[q] == branches[k] == 0
            seen = seen and (positions[k] <= positions[q] or (both_ways and in_context))
            if window is not None:
                seen = seen and abs(positions[q] - positions[k]) < window
            assert got[0, 0, q, k] == seen


@given(cases(), st.booleans(), st.booleans())
def test_positions_count_the_tokens_of_ones_own_document(case, with_padding, with_segments):
    time, padding, segments, _, _ = case
    got = np.asarray(
        token_positions(
            time, padding if with_padding else None, segments if with_segments else None
        )
    )
    got = np.broadcast_to(got, (len(padding), time))
    for row in range(len(padding)):
        for t in range(time):
            before = [
                s
                for s in range(t)
                if (not with_padding or padding[row, s])
                and (not with_segments or segments[row, s] == segments[row, t])
            ]
            assert got[row, t] == len(before)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_attention_mask_takes_away_from_causality(dtype):
    given = np.random.default_rng(0).integers(0, 2, (2, 4, 4)).astype(dtype)
    got = np.asarray(attention_mask(4, mask=given))[:, 0]
    np.testing.assert_array_equal(got, given.astype(bool) & np.tri(4, dtype=bool))
