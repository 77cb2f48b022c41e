"""Files and folders that appear whole or not at all: written aside, then renamed into place."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a scratch path beside `path`; when the block ends well, rename it onto `path`.

    Args:
        path: the file to write. An existing file is replaced in one step, and only at the end.

    Yields:
        The path of the scratch file, in the same folder. The block creates it.

    Raises:
        OSError: what the file system says (no space, no permission). `path` is then as it was.

    Example:
        >>> with whole_file("notes.json") as scratch:
        ...     scratch.write_text("{}")
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Some writers choose the format by suffix, so the scratch name ends as the target does.
    handle, name = tempfile.mkstemp(prefix=".aside-", suffix=target.name, dir=target.parent)
    os.close(handle)
    os.unlink(name)
    scratch = Path(name)
    try:
        yield scratch
        _flush_to_disk(scratch)
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give an empty scratch folder beside `path`; when the block ends well, rename it to `path`.

    Args:
        path: the folder to write.
        overwrite: whether a non-empty folder at `path` may be replaced. The old one is kept until
            the new one is complete.

    Yields:
        The scratch folder, in the same parent folder.

    Raises:
        FileExistsError: `path` holds something and `overwrite` is False. Raised before any work.
        NotADirectoryError: `path` is a file.
        OSError: what the file system says (no space, no permission). `path` is then as it was.

    Example:
        >>> with whole_folder("my-gpt", overwrite=True) as scratch:
        ...     (scratch / "config.json").write_text("{}")
    """
    target = Path(path)
    require_free(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".aside-{target.name}-", dir=target.parent))
    scratch.chmod(0o755)
    try:
        yield scratch
        for file in scratch.rglob("*"):
            if file.is_file():
                _flush_to_disk(file)
        _swap_folder(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_free(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Check that a folder may be written, before work that would be lost if it may not.

    Args:
        path: the folder.
        overwrite: whether a non-empty folder may be replaced.

    Raises:
        FileExistsError: `path` holds something and `overwrite` is False.
        NotADirectoryError: `path` is a file.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(
            f"path must be a folder, and a file stands there. Received: {target}"
        )
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise FileExistsError(
            f"the folder already holds something; choose another one, remove it, or pass "
            f"overwrite=True. Received: path={target}"
        )


def require_free_file(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Check that a file may be written, before work that would be lost if it may not.

    Args:
        path: the file.
        overwrite: whether an older file may be replaced.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        IsADirectoryError: `path` is a folder.
        OSError: nothing can be written beside it (no such disk, no permission).
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(
            f"path must be a file, and a folder stands there. Received: {target}"
        )
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"the file exists; choose another one, remove it, or pass overwrite=True. "
            f"Received: {target}"
        )
    # Folders that are not there yet are made by the writing, so that a refusal leaves none behind.
    place = next(folder for folder in target.absolute().parents if folder.exists())
    with tempfile.TemporaryFile(dir=place):
        pass


def _swap_folder(scratch: Path, target: Path) -> None:
    """Put `scratch` where `target` is, and remove the old `target` last."""
    if not target.exists():
        os.rename(scratch, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".old-{target.name}-", dir=target.parent))
    os.rename(target, old / "folder")
    try:
        os.rename(scratch, target)
    except BaseException:
        os.rename(old / "folder", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _flush_to_disk(file: Path) -> None:
    """A rename may reach the disk before the data does, unless the data is flushed first."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
