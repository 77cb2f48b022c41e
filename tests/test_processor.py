"""What the processor can do."""

import platform
from pathlib import Path

import pytest

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
