"""What there is to compute on: a CPU alone or a GPU too, and what the CPU can do."""

import functools
import os
import platform
import threading
from pathlib import Path

import keras

# With vectors of 256 bits, which it takes by itself, XLA reads a matrix more slowly for one row. And it
# unrolls the whole product of a row of a matrix, up to some 1000 numbers, and adds it up in one chain, in
# which each sum waits for the one before; in a loop it makes four sums at a time. Four rows at a time
# are read a quarter faster still: memory is then asked for four places at once.
_FLAGS = {
    "xla_cpu_prefer_vector_width": "512",
    "xla_backend_extra_options": ",".join(
        [
            "-unroll-full-max-count=8",
            "-enable-unroll-and-jam",
            "-allow-unroll-and-jam",
            "-unroll-and-jam-count=4",
        ]
    ),
}
# A flag that XLA does not know ends the process, so only where they were tried.
_HAVE_FLAGS = "2.21."
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
def tune_xla() -> None:
    """Have XLA make faster products on Intel's processors, unless it was told or has begun to work.

    tests/benchmarks/RESULTS.md has the figures. A flag that `XLA_FLAGS` names stays as it is there.
    """
    with _telling:
        _tell_xla(os.environ.get("XLA_FLAGS", ""))


def _tell_xla(before: str) -> None:
    more = [f"--{name}={value}" for name, value in _FLAGS.items() if name not in before]
    if (
        not more
        or (before.strip() and not before.strip().startswith("-"))  # the name of a file of flags
        or "avx512f" not in instructions()
        or _of_first_processor("vendor_id") != "GenuineIntel"
        or keras.backend.backend() != "tensorflow"
        or not is_on_cpu()
    ):
        return
    import tensorflow as tf

    if not tf.__version__.startswith(_HAVE_FLAGS):
        return
    os.environ["XLA_FLAGS"] = " ".join([before, *more])
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
