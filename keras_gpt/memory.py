"""What this process holds of the machine's memory, where glibc manages it (Linux)."""

import ctypes
import os
import sys
from typing import Any

_M_ARENA_MAX = -8  # of malloc.h
_ARENAS = 2


def give_back_memory() -> None:
    """Give memory that is free in this process back to the system, where glibc holds it.

    What is freed in pieces of some megabytes stays with the process otherwise, hundreds of them
    after a model was read (tests/benchmarks/RESULTS.md has the figures).
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_memory_together() -> None:
    """Let all threads take memory from the same few areas, where glibc has one for each thread.

    A process that compiles models again and again holds less memory so: what one thread frees another
    can use. The environment variable `MALLOC_ARENA_MAX` comes first.
    """
    limit = _of_glibc("mallopt")
    if limit is not None and "MALLOC_ARENA_MAX" not in os.environ:
        limit(_M_ARENA_MAX, _ARENAS)


def _of_glibc(name: str) -> Any:
    """Give a function of the C library; None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
