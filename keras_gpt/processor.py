"""What there is to compute on: a CPU alone or a GPU too, and what the CPU can do."""

import functools
import os
import platform
import threading
from pathlib import Path

import keras

_VECTOR_WIDTH = "xla_cpu_prefer_vector_width"
# A flag that XLA does not know ends the process, so only where it was tried.
_HAVE_VECTOR_WIDTH = "2.21."
_telling = threading.Lock()


def is_on_cpu() -> bool:
    """Say whether a CPU is all there is; what Keras cannot ask, as on PyTorch, is none."""
    if keras.backend.backend() == "torch":
        return False
    return all(name.startswith("cpu") for name in keras.distribution.list_devices())


@functools.cache
def instructions() -> frozenset[str]:
    """Give the names that Linux has for what an x86 processor can do; elsewhere none."""
    if platform.machine() != "x86_64":
        return frozenset()
    return frozenset(_of_first_processor("flags").split())


@functools.cache
def let_xla_use_wide_vectors() -> None:
    """Have XLA use vectors of 512 bits on Intel's processors, unless it was told or has begun to work.

    By itself it takes 256, with which one row takes longer there (tests/benchmarks/RESULTS.md).
    """
    with _telling:
        _tell_xla(os.environ.get("XLA_FLAGS", ""))


def _tell_xla(before: str) -> None:
    if (
        _VECTOR_WIDTH in before
        or (before.strip() and not before.strip().startswith("-"))  # the name of a file of flags
        or "avx512f" not in instructions()
        or _of_first_processor("vendor_id") != "GenuineIntel"
        or keras.backend.backend() != "tensorflow"
        or not is_on_cpu()
    ):
        return
    import tensorflow as tf

    if not tf.__version__.startswith(_HAVE_VECTOR_WIDTH):
        return
    os.environ["XLA_FLAGS"] = f"{before} --{_VECTOR_WIDTH}=512"
    try:
        # XLA reads the flags once, when it is first asked for something.
        with tf.init_scope():
            tf.function(lambda: tf.range(8) + 1, jit_compile=True, autograph=False)()
    finally:
        if before:
            os.environ["XLA_FLAGS"] = before
        else:
            del os.environ["XLA_FLAGS"]


def _of_first_processor(name: str) -> str:
    """Give what Linux says of a processor; "" where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in found if key.strip() == name), "")
