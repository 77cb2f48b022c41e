"""Our own folder: `config.json`, `model.safetensors` and `tokenizer.json`."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_gpt.checkpoints.checkpoint import Checkpoint, ModelTensor
from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.checkpoints.json_files import read_json_value
from keras_gpt.checkpoints.safetensors_files import open_safetensors, write_safetensors
from keras_gpt.files import whole_folder
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_FORMAT = "keras_gpt"
_VERSION = 1
_DIGEST = "weights_sha256"
_QUANTIZATION = "quantization"
_MODES = (None, "int8", "int4")


def save_preset(
    folder: str | os.PathLike[str],
    model: str,
    config: dict[str, Any],
    tensors: Mapping[str, ModelTensor],
    tokenizer: "Tokenizer | None",
    settings: GenerationSettings,
    overwrite: bool = False,
    quantization: str | None = None,
) -> None:
    """Write a preset folder; it appears whole or not at all.

    Args:
        folder: where to.
        model: name of the model's class.
        config: what the model is made from, in JSON's types.
        tensors: our name of each weight -> the weight, which keeps its dtype.
        tokenizer: goes along where there is one.
        settings: how the model is meant to be run.
        overwrite: whether a non-empty folder may be replaced.
        quantization: "int8" or "int4" where the matrices are the integers of that mode.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        OSError: what the file system says (no space, no permission).
    """
    with whole_folder(folder, overwrite) as scratch:
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "model": model,
            "config": config,
            **({} if quantization is None else {_QUANTIZATION: quantization}),
            "generation": settings.to_dict(),
            _DIGEST: write_safetensors(scratch / _WEIGHTS, tensors, format=_FORMAT),
        }
        (scratch / _CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(scratch)


def read_preset(folder: str | os.PathLike[str], with_weights: bool = True) -> Checkpoint:
    """Open a preset folder.

    Args:
        folder: the folder.
        with_weights: whether the weights are wanted; without them their file is not looked at.

    Raises:
        FileNotFoundError: there is no such folder, it is not a preset, or its weights are missing.
        ValueError: its `config.json` is not ours, or a file is damaged.
    """
    path = Path(folder)
    file = path / _CONFIG
    if not file.is_file():
        raise FileNotFoundError(
            f"folder must hold a {_CONFIG}, as save_to_preset writes it. Received: folder={path}"
        )
    content = read_json_value(file)
    if not is_preset(content):
        raise ValueError(
            f"{file} must be one that save_to_preset wrote (with 'format': '{_FORMAT}'). Received: "
            f"folder={path}"
        )
    if content.get("version") != _VERSION:
        raise ValueError(
            f"{file} has a version that this release does not read ({_VERSION} is known). "
            f"Received: version={content.get('version')!r}"
        )
    if not isinstance(content.get("model"), str) or not isinstance(content.get("config"), dict):
        raise ValueError(
            f"{file} must have 'model' (a name) and 'config' (an object). Received: keys "
            f"{sorted(content)}"
        )
    quantization = content.get(_QUANTIZATION)
    if quantization not in _MODES:
        raise ValueError(
            f"{file} must have no '{_QUANTIZATION}', or one of {_MODES[1:]}. Received: "
            f"{_QUANTIZATION}={quantization!r:.80}"
        )
    tokenizer = None
    if (path / _TOKENIZER).is_file():
        from keras_gpt.tokenizers import Tokenizer

        tokenizer = Tokenizer.load(path)
    with naming(f"{file}, 'generation'"):
        settings = GenerationSettings.of(content.get("generation"))
    weights = path / _WEIGHTS
    return Checkpoint(
        source=str(weights),
        model=content["model"],
        config=content["config"],
        tensors=open_safetensors([weights]) if with_weights else {},
        tokenizer=tokenizer,
        settings=settings,
        # Presets from before the digest have none.
        verify=functools.partial(_verify, weights, content[_DIGEST])
        if _DIGEST in content
        else None,
        quantization=quantization,
    )


def _verify(weights: Path, expected: object) -> None:
    with open(weights, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != expected:
        raise ValueError(
            f"{weights} is not the file that was saved with {_CONFIG}: it is damaged, or was changed "
            f"(if that was on purpose, take '{_DIGEST}' out of {_CONFIG}). Received: sha256 {digest}, "
            f"not {expected}"
        )


def is_preset(content: object) -> bool:
    """Say whether the content of a `config.json` is ours."""
    return isinstance(content, dict) and content.get("format") == _FORMAT


def is_preset_folder(folder: str | os.PathLike[str]) -> bool:
    """Say whether a folder's `config.json` is ours; an unreadable one is not."""
    try:
        return is_preset(read_json_value(Path(folder) / _CONFIG))
    except (OSError, ValueError):
        return False
