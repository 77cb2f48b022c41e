"""What TensorFlow Serving is started with, beside the models: its configuration, Docker, Kubernetes."""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from keras_gpt.export.batching import BATCHING_FILE
from keras_gpt.export.serving_templates import (
    ModelFolder,
    batching_params,
    compose,
    kubernetes,
    models_config,
    monitoring_config,
)
from keras_gpt.files import whole_file

_FIRST_LINE = re.compile(r"# Written by keras-gpt (\w{16})\b.*\n")


class ServingFiles(NamedTuple):
    """What became of the files."""

    written: list[Path]
    kept: list[Path]  # somebody has changed them; they are as they were


def write_serving_files(folder: str | os.PathLike[str]) -> ServingFiles:
    """Write what starts TensorFlow Serving with all models of a folder.

    models.config, batching_params.pbtxt and monitoring.config are for TensorFlow Serving; compose.yaml
    starts it in Docker, and kubernetes.yaml in a cluster. Each is written anew as models come and
    go, until somebody changes it: from then on it is left alone.

    Args:
        folder: holds NAME/VERSION/saved_model.pb for each model.

    Returns:
        The files that were written (also those that are right already), and those that were left
        alone.

    Raises:
        FileNotFoundError: the folder has no models.

    Example:
        >>> gpt.export("saved_models/my-gpt/1", max_batch=8)
        >>> keras_gpt.export.write_serving_files("saved_models")
    """
    root = Path(folder)
    models = find_models(root)
    if not models:
        raise FileNotFoundError(
            "folder must hold NAME/VERSION/saved_model.pb, where VERSION is a whole number. "
            f"Received: folder={root}"
        )
    bodies = {
        "models.config": models_config(models),
        BATCHING_FILE: batching_params(models),
        "monitoring.config": monitoring_config(),
        "compose.yaml": compose(),
        "kubernetes.yaml": kubernetes(models),
    }
    files = ServingFiles([], [])
    for name, body in bodies.items():
        path = root / name
        if path.exists() and not _is_as_written(path.read_bytes()):
            files.kept.append(path)
            continue
        text = (
            f"# Written by keras-gpt {_checksum(body)}, and again with each export until it is "
            f"changed.\n{body}"
        )
        if not path.exists() or path.read_bytes() != text.encode():
            with whole_file(path) as scratch:
                scratch.write_text(text, encoding="utf-8")
        files.written.append(path)
    return files


def find_models(root: Path) -> list[ModelFolder]:
    """List the models of a folder, by name, each with its latest version."""
    models = []
    for folder in sorted(root.iterdir()):
        versions = [
            version
            for version in (folder.iterdir() if folder.is_dir() else ())
            if version.name.isascii()
            and version.name.isdecimal()
            and (version / "saved_model.pb").is_file()
        ]
        if versions and not folder.name.startswith("."):
            latest = max(versions, key=lambda version: int(version.name))
            size = sum(file.stat().st_size for file in latest.rglob("*") if file.is_file())
            models.append(ModelFolder(folder.name, size, _max_batch(latest / BATCHING_FILE)))
    return models


def _max_batch(path: Path) -> int | None:
    if not path.is_file():
        return None
    found = re.search(r"^max_batch_size \{ value: (\d+) \}$", path.read_text("utf-8"), re.M)
    return int(found.group(1)) if found else None


def _is_as_written(content: bytes) -> bool:
    text = content.decode("utf-8", errors="replace")
    found = _FIRST_LINE.match(text)
    return found is not None and found.group(1) == _checksum(text[found.end() :])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
