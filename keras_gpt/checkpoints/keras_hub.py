"""KerasHub's GPT-2 presets: a folder as its `save_to_preset` writes it, read and written."""

import datetime
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_gpt.checkpoints.checkpoint import (
    Checkpoint,
    StoredTensor,
    map_tensors,
    split_tensors,
)
from keras_gpt.checkpoints.huggingface_families import (
    require_fields,
    require_no_windows,
    require_values,
)
from keras_gpt.checkpoints.huggingface_reader import read_json
from keras_gpt.checkpoints.keras_hub_weights import open_h5, tensor_map, write_h5
from keras_gpt.config import GPTConfig
from keras_gpt.files import whole_folder
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

SCHEME = "kaggle://"
_WHAT = "KerasHub's GPT-2"
_WEIGHTS, _INDEX = "model.weights.h5", "model.weights.json"
_METADATA, _OURS = "metadata.json", "keras_gpt"
_ASSETS = Path("assets", "tokenizer")
_END_OF_TEXT = "<|endoftext|>"  # their tokenizer knows no other

_FIELDS = {
    "norm_placement": "pre",
    "normalization": "layer_norm",
    "norm_epsilon": 1e-5,
    "positions": "learned",
    "feed_forward": "dense",
    "activation": "gelu_tanh",
    "use_bias": True,
    "bidirectional_prefix": False,
    "output_activation": None,
    "tie_embeddings": True,
}
# Their name of each number -> ours.
_NUMBERS = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
    "hidden_dim": "embedding_dim",
    "intermediate_dim": "feed_forward_dim",
    "max_sequence_length": "context_length",
}


def read_keras_hub(folder: Path, with_weights: bool = True) -> Checkpoint:
    """Open a preset folder of KerasHub's GPT-2, of the whole model or of the backbone alone.

    Args:
        folder: holds `config.json`, the weights (`model.weights.h5`, or `model.weights.json` with
            its shards), and usually a tokenizer in `tokenizer.json` and `assets/tokenizer`.
        with_weights: whether the weights are wanted; without them their files are not looked at.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is another model's, a setting is not supported, or a file is damaged.

    Example:
        >>> read_keras_hub(Path("gpt2_base_en")).config["num_layers"]
        12
    """
    config = _read_config(folder)
    tensors: Mapping[str, StoredTensor] = {}
    if with_weights:
        tensors = map_tensors(tensor_map(config), open_h5(_weight_files(folder)), str(folder))
    return Checkpoint(
        source=str(folder),
        model="GPT",
        config=config.to_dict(),
        tensors=tensors,
        tokenizer=_read_tokenizer(folder),
        settings=_read_settings(folder),
    )


def save_keras_hub(
    folder: str | os.PathLike[str],
    config: GPTConfig,
    variables: Sequence[Any],
    tokenizer: "Tokenizer | None",
    settings: GenerationSettings,
    overwrite: bool = False,
) -> None:
    """Write a preset that `keras_hub.models.GPT2CausalLM.from_preset` loads.

    KerasHub has no place for generation settings. They go into `metadata.json`, where it does not
    look and `read_keras_hub` finds them.

    Args:
        folder: where to; it appears whole or not at all.
        config: the model's. `initializer_range` is not kept: the weights are there already.
        variables: the model's Keras variables, which keep their dtypes.
        tokenizer: goes along where there is one; without it the preset takes ids only.
        settings: go along.
        overwrite: whether a non-empty folder may be replaced.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ValueError: KerasHub's GPT-2 or its tokenizer has not what this one has; the message names
            the field.
    """
    require_no_windows(config, _WHAT)
    require_fields(config, {**_FIELDS, "key_value_heads": config.num_heads}, _WHAT)
    for name in ("attention_dropout", "residual_dropout"):  # they have one rate for all three
        require_fields(config, {name: config.embedding_dropout}, _WHAT)
    if tokenizer is not None:
        _require_their_tokenizer(tokenizer)
    dtype = variables[0].dtype
    backbone = _object(
        "models.gpt2.gpt2_backbone",
        "GPT2Backbone",
        dtype,
        **{theirs: getattr(config, ours) for theirs, ours in _NUMBERS.items()},
        dropout=config.embedding_dropout,
    )
    preprocessor = None
    if tokenizer is not None:
        preprocessor = _object(
            "models.gpt2.gpt2_causal_lm_preprocessor",
            "GPT2CausalLMPreprocessor",
            dtype,
            tokenizer=_tokenizer_object(tokenizer),
            config_file="preprocessor.json",
            sequence_length=config.context_length,
            add_start_token=True,
            add_end_token=True,
        )
    task = _object("models.gpt2.gpt2_causal_lm", "GPT2CausalLM", None)
    task["config"] |= {"backbone": backbone, "preprocessor": preprocessor}
    with whole_folder(folder, overwrite) as scratch:
        write_h5(scratch / _WEIGHTS, split_tensors(tensor_map(config), variables))
        _write_json(scratch / "config.json", backbone)
        _write_json(scratch / "task.json", task)
        _write_json(scratch / _METADATA, _metadata(config, settings))
        if tokenizer is not None:
            _write_json(scratch / "preprocessor.json", preprocessor)
            _write_json(scratch / "tokenizer.json", _tokenizer_object(tokenizer))
            _write_assets(scratch / _ASSETS, tokenizer)


def fetch_kaggle(handle: str) -> Path:
    """Get a preset from Kaggle, or from its cache, through the library that KerasHub uses.

    Args:
        handle: `kaggle://owner/model/keras/variant`, with `/version` behind where needed.

    Returns:
        The folder.

    Raises:
        ValueError: `handle` is not of this form.
        FileNotFoundError: Kaggle has no such preset, or does not show it.
        ConnectionError: Kaggle cannot be reached.

    Example:
        >>> fetch_kaggle("kaggle://keras/gpt2/keras/gpt2_base_en/3")
    """
    import kagglehub
    from requests import HTTPError, RequestException

    name = handle.removeprefix(SCHEME)
    parts = name.split("/")
    if len(parts) not in (4, 5) or parts[2].lower() != "keras" or "" in parts or ".." in parts:
        raise ValueError(
            "source must be kaggle://owner/model/keras/variant, or the same with /version behind. "
            f"Received: {handle!r}"
        )
    try:
        return Path(kagglehub.model_download(name))
    except HTTPError as error:
        raise FileNotFoundError(
            f"Kaggle does not give {handle}: {str(error)[:300]} (a preset with a licence to accept "
            "needs an account: set KAGGLE_API_TOKEN)"
        ) from error
    except RequestException as error:
        raise ConnectionError(
            f"{handle} must be downloaded, and Kaggle cannot be reached: {str(error)[:200]}"
        ) from error


# -- reading ---------------------------------------------------------------------------------------


def _read_config(folder: Path) -> GPTConfig:
    file = folder / "config.json"
    content = read_json(file)
    fields = content.get("config")
    if content.get("class_name") != "GPT2Backbone" or not isinstance(fields, dict):
        raise ValueError(
            f"{file} must be of KerasHub's GPT2Backbone. Received: class_name="
            f"{content.get('class_name')!r}"
        )
    # The name of a plain policy, where older releases wrote it without its class.
    dtype = fields.get("dtype") or "float32"
    kind = dtype.get("class_name") if isinstance(dtype, dict) else "DTypePolicy"
    require_values({"dtype": kind}, {"dtype": "DTypePolicy"}, str(file))  # others are quantized
    missing = sorted(set(_NUMBERS) - set(fields))
    if missing:
        raise ValueError(f"{file} must have {sorted(_NUMBERS)}. Received: without {missing}")
    rate = fields.get("dropout", 0.1)
    return GPTConfig(
        **{ours: fields[theirs] for theirs, ours in _NUMBERS.items()},
        **_FIELDS,
        embedding_dropout=rate,
        attention_dropout=rate,
        residual_dropout=rate,
    )


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    index = folder / _INDEX
    if not index.is_file():
        raise FileNotFoundError(
            f"the folder must hold {_WEIGHTS}, or {_INDEX} with its shards. Received: {folder}"
        )
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} must have a weight_map with weights in it")
    names: set[str] = set()
    for place in places.values():
        for shard in place if isinstance(place, list) else [place]:
            # Only a bare name stays inside the folder.
            if not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & set("/\\:\0"):
                raise ValueError(
                    f"{index} must name its shards by bare file names. Received: {shard!r}"
                )
            names.add(shard)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise FileNotFoundError(
            f"{index} names shards that the folder lacks: download them again. Received: no "
            f"{missing[:5]}"
        )
    return [folder / name for name in sorted(names)]


def _read_tokenizer(folder: Path) -> "Tokenizer | None":
    from keras_gpt.tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    content = read_json(file)
    fields = content.get("config")
    if content.get("class_name") != "GPT2Tokenizer" or not isinstance(fields, dict):
        raise ValueError(
            f"{file} must be of KerasHub's GPT2Tokenizer. Received: class_name="
            f"{content.get('class_name')!r}"
        )
    require_values(fields, {"add_prefix_space": False}, str(file))
    files = [folder / _ASSETS / name for name in ("vocabulary.json", "merges.txt")]
    for each in files:
        if not each.is_file():
            raise FileNotFoundError(
                f"the preset's tokenizer needs vocabulary.json and merges.txt. Received: no {each}"
            )
    return Tokenizer.from_files(*files, fields.get("unsplittable_tokens") or [_END_OF_TEXT])


def _read_settings(folder: Path) -> GenerationSettings:
    file = folder / _METADATA
    ours = read_json(file).get(_OURS) if file.is_file() else None
    return GenerationSettings.of(ours.get("generation") if isinstance(ours, dict) else None)


# -- writing ---------------------------------------------------------------------------------------


def _require_their_tokenizer(tokenizer: "Tokenizer") -> None:
    expected = {
        "level": "byte",
        "split": "gpt2",
        "ignore_merges": False,
        "nfc": False,
        "added_tokens": {},
    }
    for name, value in expected.items():
        if getattr(tokenizer, name) != value:
            raise ValueError(
                f"{_WHAT} has only a tokenizer with {name}={value!r}, so this one cannot be kept "
                f"in that format. Received: {name}={getattr(tokenizer, name)!r}"
            )
    if tokenizer.end_of_text_id is None:
        raise ValueError(
            f"{_WHAT} needs a tokenizer with the special token {_END_OF_TEXT!r}. Received: "
            f"special_tokens={list(tokenizer.special_tokens)}"
        )


def _object(module: str, name: str, dtype: str | None, **fields: Any) -> dict[str, Any]:
    """Describe an object as Keras does: its class, and what it is made from."""
    config: dict[str, Any] = {"name": Path(module.replace(".", "/")).name}
    if dtype is not None:
        policy = {
            "module": "keras",
            "class_name": "DTypePolicy",
            "config": {"name": dtype},
            "registered_name": None,
        }
        config |= {"trainable": True, "dtype": policy}
    return {
        "module": f"keras_hub.src.{module}",
        "class_name": name,
        "config": {**config, **fields},
        "registered_name": f"keras_hub>{name}",
    }


def _tokenizer_object(tokenizer: "Tokenizer") -> dict[str, Any]:
    return _object(
        "models.gpt2.gpt2_tokenizer",
        "GPT2Tokenizer",
        "int32",
        config_file="tokenizer.json",
        sequence_length=None,
        add_prefix_space=False,
        unsplittable_tokens=list(tokenizer.special_tokens),
    )


def _metadata(config: GPTConfig, settings: GenerationSettings) -> dict[str, Any]:
    return {
        "keras_version": importlib.metadata.version("keras"),
        "keras_hub_version": importlib.metadata.version("keras-hub"),
        "parameter_count": config.num_parameters,
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["CausalLM"],
        _OURS: {"generation": settings.to_dict()},
    }


def _write_assets(folder: Path, tokenizer: "Tokenizer") -> None:
    folder.mkdir(parents=True)
    vocabulary = {tokenizer.id_to_token(each): each for each in range(tokenizer.vocab_size)}
    _write_json(folder / "vocabulary.json", vocabulary)
    lines = "".join(f"{left} {right}\n" for left, right in tokenizer.merges)
    (folder / "merges.txt").write_text(lines, encoding="utf-8")


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
