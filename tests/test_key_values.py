"""Keys and values go where they belong, one row as rows of a batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_gpt.key_values import KeyValues, put


def some(rng: np.random.Generator, *shape: int) -> KeyValues:
    return KeyValues(*[ops.convert_to_tensor(rng.normal(size=shape)) for _ in range(2)])


@pytest.mark.parametrize("rows", [1, 3])
@given(count=st.integers(1, 3), starts=st.lists(st.integers(0, 6), min_size=3, max_size=3))
def test_new_places_go_behind_each_start_and_none_beyond_the_end(
    rows: int, count: int, starts: list[int]
) -> None:
    rng = np.random.default_rng(0)
    old, new = some(rng, rows, 2, 5, 4), some(rng, rows, 2, count, 4)
    found = put(old, new, ops.convert_to_tensor(starts[:rows], "int32"))
    for was, more, now in zip(old, new, found, strict=True):
        wanted = np.array(was)
        for row in range(rows):
            for place in range(count):
                if starts[row] + place < 5:
                    wanted[row, :, starts[row] + place] = np.array(more)[row, :, place]
        np.testing.assert_array_equal(now, wanted)
