"""Tests as XLA optimizes for users; `conftest.py` has it compile fast instead."""

import os
import subprocess
import sys

_RUN = """
import sys
import pytest
from keras_gpt.processor import tune_xla
tune_xla()
sys.exit(pytest.main(sys.argv[1:]))
"""


def is_optimized() -> bool:
    """Say whether XLA optimizes in this process."""
    return "--xla_backend_optimization_level=0" not in os.environ["XLA_FLAGS"]


def run_optimized(*tests: str) -> None:
    """Run tests in a process in which XLA has the flags that users get, and fail where one fails."""
    command = [sys.executable, "-c", _RUN, "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    # What XLA does anyway; were nothing said, `conftest.py` would say its own there.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
