"""What a process holds in memory: a quarter of the floats in int8, an eighth in int4."""

import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds"),
]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 124M with random weights."""
    from benchmarks.precision import random_gpt2

    return random_gpt2(tmp_path_factory.mktemp("gpt2"))


FLOATS = 4 * 124_439_808  # bytes of the weights in float32


@pytest.mark.parametrize(
    ("precision", "loaded", "peak"),
    [
        ("float32", 1.1, 2.0),
        ("bfloat16", 0.6, 1.2),
        ("int8", 0.3, 0.75),
        ("int4", 0.2, 0.75),
        ("int8 in place", 0.3, 2.0),
    ],
)
def test_memory_is_that_of_the_precision(
    gpt2: Path, precision: str, loaded: float, peak: float
) -> None:
    """Above the libraries' own, as parts of the floats' bytes; after loading, and while."""
    from benchmarks.precision import memory_of

    found = memory_of(gpt2, precision)
    assert found["loaded"] < loaded * FLOATS, found
    assert found["peak"] < peak * FLOATS, found
    # What compiling leaves behind comes on top.
    assert found["generated"] < loaded * FLOATS + 500e6, found
