"""Which versions of a model lie on disk, and which of them are to be served."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class ModelEntry:
    """A model that is to be served.

    Args:
        name: what clients call it.
        base_path: holds the folders of its versions.
        latest: how many of the greatest versions are served; None for all.
        specific: the only versions that are served; empty where `latest` says which.
        labels: versions by the names that clients may use in place of their numbers.

    Example:
        >>> ModelEntry("demo", Path("saved_models/demo"), labels={"stable": 1}).wanted()
        {2: PosixPath('saved_models/demo/2')}
    """

    name: str
    base_path: Path
    latest: int | None = 1
    specific: frozenset[int] = frozenset()
    labels: Mapping[str, int] = field(default_factory=dict)

    def wanted(self) -> dict[int, Path]:
        """The folders of the versions to be served, the greatest first.

        Raises:
            OSError: the base path cannot be read.
        """
        versions = version_folders(self.base_path)
        if self.specific:
            return {number: path for number, path in versions.items() if number in self.specific}
        return dict(list(versions.items())[: self.latest])


def version_folders(base_path: Path) -> dict[int, Path]:
    """The folders whose names are version numbers, the greatest first.

    Args:
        base_path: the folder of one model.

    Raises:
        OSError: the folder cannot be read.
    """
    found = {
        int(path.name): path
        for path in sorted(base_path.iterdir(), reverse=True)
        if path.name.isascii() and path.name.isdecimal() and len(path.name) < 20 and path.is_dir()
    }
    return {
        number: found[number] for number in sorted(found, reverse=True) if number <= MAX_VERSION
    }


def find_models(folder: Path) -> tuple[list[ModelEntry], list[Path]]:
    """The models of a folder, each by its latest version.

    Args:
        folder: holds NAME/VERSION/saved_model.pb, where VERSION is a whole number.

    Returns:
        The models by name, and the folders that hold no version. Hidden folders are left out.

    Raises:
        FileNotFoundError: there is no such folder.
        NotADirectoryError: a file stands there.
    """
    layout = "expected NAME/VERSION/saved_model.pb in it, where VERSION is a whole number"
    if not folder.exists():
        raise FileNotFoundError(f"the folder does not exist; {layout}. Received: folder={folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"folder must be a folder; {layout}. Received: folder={folder}")
    models, others = [], []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if version_folders(path):
            models.append(ModelEntry(path.name, path))
        else:
            others.append(path)
    return models, others


def no_models_error(folder: Path) -> FileNotFoundError:
    """What to say of a folder in which `find_models` finds none."""
    hint = (
        f" This looks like the folder of one model; did you mean {folder.absolute().parent}?"
        if version_folders(folder) or (folder / "saved_model.pb").exists()
        else ""
    )
    return FileNotFoundError(
        "the folder has no models; expected NAME/VERSION/saved_model.pb in it, where VERSION is a "
        f"whole number.{hint} Received: folder={folder}"
    )
