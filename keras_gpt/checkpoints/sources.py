"""Finding out what a source of weights is, and opening it."""

import os
from pathlib import Path

from keras_gpt.checkpoints import catalogue, hub
from keras_gpt.checkpoints.checkpoint import Checkpoint
from keras_gpt.checkpoints.huggingface_reader import read_huggingface
from keras_gpt.checkpoints.json_files import read_json
from keras_gpt.checkpoints.preset import is_preset, read_preset

KAGGLE = "kaggle://"
_GGUF_MAGIC = b"GGUF"


def open_checkpoint(source: str | os.PathLike[str], with_weights: bool = True) -> Checkpoint:
    """Open a model, whatever format it is kept in, without reading a weight.

    Args:
        source: a folder (ours; Hugging Face's; a KerasHub preset; OpenAI's GPT-2 with
            `hparams.json`; OpenAI's GPT-1 with `params_shapes.json`), a `.gguf` file,
            `hf://owner/name[@revision]`, `hf://owner/name/file.gguf`, `kaggle://...`, or the name
            of a model that `keras-gpt models pull` has fetched.
        with_weights: whether the weights are wanted; if not, they are not fetched or looked at
            where the format can do without.

    Raises:
        FileNotFoundError: there is nothing of that name, or a part of it is missing.
        PermissionError: it may not be read.
        ValueError: it is damaged, or of a kind that is not supported.
        ConnectionError: it must be downloaded, and cannot be.

    Example:
        >>> open_checkpoint("my-gpt/").config["num_layers"]
        12
    """
    name = os.fspath(source)
    if name.startswith(hub.SCHEME):
        return _open_path(hub.fetch(name, with_weights), with_weights)
    if name.startswith(KAGGLE):
        from keras_gpt.checkpoints.keras_hub import fetch_kaggle

        return _open_path(Path(fetch_kaggle(name)), with_weights)
    path = Path(name)
    if not path.exists() and name in catalogue.MODELS:
        path = catalogue.pulled_folder(name)
    return _open_path(path, with_weights)


def _open_path(path: Path, with_weights: bool) -> Checkpoint:
    if path.is_dir():
        return _open_folder(path, with_weights)
    if not path.exists():
        raise FileNotFoundError(
            "source must be a folder or a .gguf file that exists, hf://owner/name, kaggle://..., "
            f"or one of {sorted(catalogue.MODELS)}. Received: source={str(path)!r}"
        )
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != _GGUF_MAGIC:
        hint = " (unpack the archive first)" if magic[:2] == b"PK" else ""
        raise ValueError(
            f"source must be a folder, or a file in the GGUF format{hint}. Received: "
            f"source={str(path)!r}, which begins with {magic!r}"
        )
    from keras_gpt.checkpoints.gguf_reader import read_gguf

    return read_gguf(path)


def _open_folder(folder: Path, with_weights: bool) -> Checkpoint:
    if (folder / "hparams.json").is_file():
        from keras_gpt.checkpoints.openai_gpt2 import read_openai_gpt2

        return read_openai_gpt2(folder)
    if (folder / "params_shapes.json").is_file():
        from keras_gpt.checkpoints.openai_gpt1 import read_openai_gpt1

        return read_openai_gpt1(folder)
    if not (folder / "config.json").is_file():
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f"; it holds {ggufs[:3]}: name the file" if ggufs else ""
        raise FileNotFoundError(
            "folder must hold a config.json (ours, Hugging Face's or KerasHub's), an hparams.json "
            "(OpenAI's GPT-2) or a params_shapes.json (OpenAI's GPT-1). Received: "
            f"source={str(folder)!r}{hint}"
        )
    content = read_json(folder / "config.json")
    if is_preset(content):
        return read_preset(folder, with_weights)
    if "model_type" in content:
        return read_huggingface(folder, with_weights)
    if "class_name" in content:
        from keras_gpt.checkpoints.keras_hub import read_keras_hub

        return read_keras_hub(folder)
    raise ValueError(
        f"{folder / 'config.json'} must be one that save_to_preset wrote (with 'format': "
        "'keras_gpt'), Hugging Face's (with 'model_type') or KerasHub's (with 'class_name'). "
        f"Received: keys {sorted(content)[:8]}"
    )
