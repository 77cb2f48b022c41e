"""What there is to compute on: a CPU alone or a GPU too, and what the CPU can do."""

import functools
import platform
from pathlib import Path

import keras


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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split()[2:])
