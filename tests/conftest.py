"""What all tests share."""

import gc
import os
import zlib
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile far more than they compute: XLA is to compile fast, and into few pieces, since the
# kernel allows a process a limited number of memory maps and TensorFlow frees none.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    " --xla_cpu_use_fusion_emitters=false",
)

from hypothesis import settings

# The same examples on every run: a test that fails here fails everywhere.
settings.register_profile("keras_gpt", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("keras_gpt")

# Imports and traced graphs are many objects that stay: looking through all of them for garbage as often
# as Python does took about a sixth of the time of an import.
gc.set_threshold(20_000, 10, 10)


# The slowest files: begun last, one of them would keep one process busy while the others idle.
_FIRST = ("test_readme.py", "test_examples.py", "test_train.py", "test_speculative.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _FIRST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Draw the same weights on every run; before the fixtures, whose models are drawn too."""
    import keras

    keras.utils.set_random_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture(scope="session", autouse=True)
def operations_without_origins() -> None:
    """Have TensorFlow not note in which lines of Python an operation of a graph was made.

    It keeps all frames of each operation that XLA compiled, which was over half of the memory that
    stays of a test: together they came to that of a machine.
    """
    from tensorflow.python.client import pywrap_tf_session

    pywrap_tf_session.TF_SetOpStackTrace = lambda operation, frames: None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets that lies beside the project on our machines, or a skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets beside the project (../shared/data) are not on this machine")
    return folder
