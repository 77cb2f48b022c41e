"""Whether anything is compiled: TensorFlow traces a function once that XLA may compile often."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def num_pieces() -> int:
    """Count the pieces of machine code that were made while the process runs; 0 where this is no Linux.

    Linux lists them as memory that can be executed and comes from no file.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return 0
    parts = [line.split() for line in lines]
    return sum("x" in each[1] and len(each) == 5 for each in parts)


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Fail where the body had anything compiled."""
    before = num_pieces()
    yield
    more = num_pieces() - before
    assert more == 0, f"{more} pieces of machine code were compiled"
