"""What the processor can do."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from keras_gpt import processor


@pytest.fixture(autouse=True)
def _asked_anew():
    processor.instructions.cache_clear()
    yield
    processor.instructions.cache_clear()


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(),
    reason="only Linux on x86-64 tells",
)
def test_every_x86_64_has_sse2():
    assert "sse2" in processor.instructions()


def test_of_other_processors_nothing_is_known(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not processor.instructions()


def test_a_system_that_does_not_tell(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", missing)
    assert not processor.instructions()


def test_no_gpu_here():
    assert processor.is_on_cpu()


# Compiles after it was asked, as for a processor of some maker, and prints the flags that are left.
WIDE = """
import os, sys
from keras_gpt import processor
known = {"flags": "fpu avx512f", "vendor_id": sys.argv[1]}
processor._of_first_processor = known.get
processor.is_on_cpu = lambda: True
import tensorflow as tf
processor.tune_xla()
tf.function(lambda x: x * 2, jit_compile=True)(tf.ones([3]))
print(os.environ["XLA_FLAGS"])
"""


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not tf.__version__.startswith("2.21."),
    reason="it is done for processors of x86-64 and TensorFlow 2.21",
)
@pytest.mark.parametrize(
    ("maker", "flag", "is_512", "is_in_loops"),
    [
        ("GenuineIntel", "", True, True),
        ("GenuineIntel", " --xla_cpu_prefer_vector_width=128", False, True),
        ("GenuineIntel", " --xla_backend_extra_options=-unroll-full-max-count=16", True, False),
        (
            "GenuineIntel",
            " --xla_cpu_prefer_vector_width=128 --xla_backend_extra_options=-unroll-full-max-count=16",
            False,
            False,
        ),
        ("AuthenticAMD", "", False, False),
    ],
)
def test_xla_is_told_what_it_was_not_told_and_the_environment_stays(
    tmp_path, maker, flag, is_512, is_in_loops
):
    flags = f"--xla_dump_to={tmp_path}{flag}"
    done = subprocess.run(
        [sys.executable, "-c", WIDE, maker],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "KERAS_BACKEND": "tensorflow"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == flags
    options = [file.read_text() for file in tmp_path.glob("*debug_options")]
    assert options
    assert {"xla_cpu_prefer_vector_width: 512" in each for each in options} == {is_512}
    for name, value in (("-unroll-full-max-count", "8"), ("-unroll-and-jam-count", "4")):
        count = re.compile(rf'key: "{name}"\s+value: "{value}"')
        assert {bool(count.search(each)) for each in options} == {is_in_loops}


def test_flags_in_a_file_stay_where_they_are(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", " /some/file")
    monkeypatch.setattr(processor, "_of_first_processor", lambda name: "GenuineIntel")
    monkeypatch.setattr(processor, "instructions", lambda: {"avx512f"})
    monkeypatch.setattr(processor, "is_on_cpu", lambda: pytest.fail("XLA is told"))
    processor.tune_xla.__wrapped__()
    assert os.environ["XLA_FLAGS"] == " /some/file"
