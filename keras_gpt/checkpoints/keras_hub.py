"""KerasHub's GPT-2 presets, read and written; `kaggle://` through its own download."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_gpt.checkpoints.checkpoint import (
    Checkpoint,
    Layout,
    ModelTensor,
    Part,
    StoredTensor,
    TensorMap,
    map_tensors,
    split_tensors,
)
from keras_gpt.checkpoints.config_checks import (
    naming,
    require_fields,
    require_no_windows,
    take,
)
from keras_gpt.checkpoints.hdf5_file import open_hdf5
from keras_gpt.checkpoints.json_files import read_json
from keras_gpt.config import GPTConfig
from keras_gpt.files import whole_folder
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

_WEIGHTS = "model.weights.h5"
_WHAT = "KerasHub's GPT-2"
_END_OF_TEXT = "<|endoftext|>"
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


def fetch_kaggle(source: str) -> Path:
    """Get a preset's files from Kaggle, through its own library and cache.

    Args:
        source: such as "kaggle://keras/gpt2/keras/gpt2_base_en".

    Raises:
        ConnectionError: Kaggle cannot be reached, or does not give it.
    """
    import kagglehub

    try:
        return Path(kagglehub.model_download(source.removeprefix("kaggle://")))
    except Exception as error:  # its errors have no common class
        raise ConnectionError(
            f"Kaggle does not give {source} ({type(error).__name__}: {str(error)[:200]}); check "
            "the name, the connection, and KAGGLE_USERNAME and KAGGLE_KEY where it asks for them"
        ) from error


def read_keras_hub(folder: str | os.PathLike[str]) -> Checkpoint:
    """Open a GPT-2 preset of KerasHub.

    Args:
        folder: what `GPT2CausalLM.save_to_preset` or `GPT2Backbone.save_to_preset` wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it holds another model, or a file is damaged.
    """
    path = Path(folder)
    content = read_json(path / "config.json")
    if content.get("class_name") != "GPT2Backbone":
        raise ValueError(
            f"{path / 'config.json'} must be that of a GPT2Backbone. Received: "
            f"class_name={content.get('class_name')!r}"
        )
    fields = content.get("config")
    if not isinstance(fields, dict):
        raise ValueError(f"{path / 'config.json'} must have a config. Received: {fields!r:.80}")
    with naming(path / "config.json"):
        config = _config(fields)
    return Checkpoint(
        source=str(path),
        model="GPT",
        config=config.to_dict(),
        tensors=map_tensors(_tensors, config, _open(path / _WEIGHTS), str(path)),
        tokenizer=_tokenizer(path / "assets" / "tokenizer"),
    )


def _config(fields: Mapping[str, Any]) -> GPTConfig:
    dropout = fields.get("dropout", 0.1)
    return GPTConfig(
        vocab_size=take(fields, "vocabulary_size"),
        embedding_dim=take(fields, "hidden_dim"),
        num_heads=take(fields, "num_heads"),
        feed_forward_dim=take(fields, "intermediate_dim"),
        num_layers=take(fields, "num_layers"),
        context_length=take(fields, "max_sequence_length"),
        embedding_dropout=dropout,
        attention_dropout=dropout,
        residual_dropout=dropout,
    )


def save_keras_hub(
    folder: str | os.PathLike[str],
    config: GPTConfig,
    variables: Sequence[Any],
    tokenizer: "Tokenizer | None",
    settings: GenerationSettings,
    overwrite: bool = False,
) -> None:
    """Write a preset that KerasHub's GPT-2 classes load; KerasHub itself writes the files.

    Args:
        folder: where to; it appears whole or not at all.
        config: the model's.
        variables: the model's Keras variables.
        tokenizer: goes along where there is one; then it is a `GPT2CausalLM`, else a backbone.
        settings: KerasHub keeps none. Another end of a text than the tokenizer's is refused, and
            what else they say is left out, with a warning that names it.
        overwrite: whether a non-empty folder may be replaced.

    Raises:
        FileExistsError: the folder holds something and `overwrite` is False.
        ValueError: KerasHub's GPT-2 has not what this model or its tokenizer has; the message
            names the field.
    """
    require_no_windows(config, _WHAT)
    require_fields(config, {**_FIELDS, "key_value_heads": config.num_heads}, _WHAT)
    require_fields(
        config,
        dict.fromkeys(("embedding_dropout", "attention_dropout"), config.residual_dropout),
        _WHAT,
    )
    _check_text(tokenizer, settings)
    _warn_of_settings(tokenizer, settings)
    with whole_folder(folder, overwrite) as scratch:
        import keras_hub

        backbone = keras_hub.models.GPT2Backbone(
            vocabulary_size=config.vocab_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            hidden_dim=config.embedding_dim,
            intermediate_dim=config.feed_forward_dim,
            dropout=config.residual_dropout,
            max_sequence_length=config.context_length,
        )
        backbone.save_to_preset(str(scratch))
        _fill(scratch / _WEIGHTS, split_tensors(_tensors(config), variables))
        if tokenizer is not None:
            _save_text_parts(keras_hub, tokenizer, config.context_length, backbone, scratch)


def _check_text(tokenizer: "Tokenizer | None", settings: GenerationSettings) -> None:
    if tokenizer is None:
        return
    if tokenizer.level != "byte" or tokenizer.split != "gpt2" or tokenizer.end_of_text_id is None:
        raise ValueError(
            f"{_WHAT} has a byte-level tokenizer with GPT-2's split and <|endoftext|>, so this one "
            f"cannot be kept in that format. Received: {tokenizer!r}"
        )
    ends = settings.stop_token_ids
    if ends is not None and ends != (tokenizer.end_of_text_id,):
        raise ValueError(
            f"{_WHAT} ends a text with <|endoftext|> only, so this model cannot be kept in that "
            f"format. Received: stop_token_ids={ends}"
        )
    # Its class makes a tokenizer of a vocabulary and merges, and takes nothing else.
    received = {
        "special_tokens": list(tokenizer.special_tokens),
        "added_tokens": list(tokenizer.added_tokens),
        "ignore_merges": tokenizer.ignore_merges,
        "nfc": tokenizer.nfc,
    }
    expected = {
        "special_tokens": [_END_OF_TEXT],
        "added_tokens": [],
        "ignore_merges": False,
        "nfc": False,
    }
    for name, value in expected.items():
        if received[name] != value:
            raise ValueError(
                f"{_WHAT} has only tokenizers with {name}={value!r}, so this one cannot be kept in "
                f"that format. Received: {name}={received[name]!r:.300}"
            )


def _warn_of_settings(tokenizer: "Tokenizer | None", settings: GenerationSettings) -> None:
    said = settings.to_dict()
    if tokenizer is not None:
        said.pop("stop_token_ids", None)  # checked, and the same there
        for name in ("bos_token", "eos_token"):
            if said.get(name) == _END_OF_TEXT:
                del said[name]
    if said:
        warnings.warn(
            f"{_WHAT} keeps no generation settings; left out: {', '.join(said)}. Whoever loads the "
            "preset must give them again.",
            stacklevel=4,
        )


def _save_text_parts(
    keras_hub: Any, tokenizer: "Tokenizer", context: int, backbone: Any, folder: Path
) -> None:
    """Add tokenizer, preprocessor and task to a folder that has the backbone's files."""
    vocabulary = {tokenizer.id_to_token(index): index for index in range(tokenizer.vocab_size)}
    theirs = keras_hub.models.GPT2Tokenizer(
        vocabulary=vocabulary, merges=[f"{left} {right}" for left, right in tokenizer.merges]
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(theirs, sequence_length=context)
    preprocessor.save_to_preset(str(folder))
    import keras
    from keras_hub.src.utils.preset_utils import TASK_CONFIG_FILE

    task = keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor)
    text = keras.saving.serialize_keras_object(task)
    import json

    (folder / TASK_CONFIG_FILE).write_text(json.dumps(text, indent=4), encoding="utf-8")


def _fill(file: Path, tensors: Mapping[str, ModelTensor]) -> None:
    """Put values in the place of those in a weights file."""
    import h5py

    with h5py.File(file, "r+") as opened:
        for name, tensor in tensors.items():
            opened[name][...] = tensor.read()


def _open(file: Path) -> dict[str, StoredTensor]:
    if not file.is_file():
        raise FileNotFoundError(
            f"the preset must have its weights in one {_WEIGHTS}. Received: no {file}"
        )
    # Dropout keeps the state of its random numbers among the weights.
    return open_hdf5(file, unused="seed_generator")


def _tensors(config: GPTConfig) -> TensorMap:
    dim, inner = config.embedding_dim, config.feed_forward_dim
    heads, head_dim = config.num_heads, config.head_dim

    def part(name: str, shape: tuple[int, ...], ours: tuple[int, ...]) -> Part:
        layout = Layout(lambda tensor: tensor.reshape(ours), lambda tensor: tensor.reshape(shape))
        return Part(name, shape, ours[-1], layout)

    def whole(name: str, *shape: int) -> tuple[Part, ...]:
        return (Part(name, shape, shape[-1]),)

    mapping: dict[str, tuple[Part, ...]] = {
        "token_embedding/embeddings": whole(
            "layers/reversible_embedding/vars/0", config.vocab_size, dim
        ),
        "position_embedding/table": whole(
            "layers/position_embedding/vars/0", config.context_length, dim
        ),
        "final_norm/gamma": whole("layers/layer_normalization/vars/0", dim),
        "final_norm/beta": whole("layers/layer_normalization/vars/1", dim),
    }
    for layer in range(config.num_layers):
        ours = f"block_{layer}"
        theirs = "layers/transformer_decoder" + (f"_{layer}" if layer else "")
        attention = f"{theirs}/_self_attention_layer"
        three = [f"{attention}/{kind}_dense/vars" for kind in ("query", "key", "value")]
        mapping |= {
            f"{ours}/attention_norm/gamma": whole(
                f"{theirs}/_self_attention_layer_norm/vars/0", dim
            ),
            f"{ours}/attention_norm/beta": whole(
                f"{theirs}/_self_attention_layer_norm/vars/1", dim
            ),
            f"{ours}/attention/qkv/kernel": tuple(
                part(f"{each}/0", (dim, heads, head_dim), (dim, dim)) for each in three
            ),
            f"{ours}/attention/qkv/bias": tuple(
                part(f"{each}/1", (heads, head_dim), (dim,)) for each in three
            ),
            f"{ours}/attention/projection/kernel": (
                part(f"{attention}/output_dense/vars/0", (heads, head_dim, dim), (dim, dim)),
            ),
            f"{ours}/attention/projection/bias": whole(f"{attention}/output_dense/vars/1", dim),
            f"{ours}/feed_forward_norm/gamma": whole(
                f"{theirs}/_feedforward_layer_norm/vars/0", dim
            ),
            f"{ours}/feed_forward_norm/beta": whole(
                f"{theirs}/_feedforward_layer_norm/vars/1", dim
            ),
        }
        for dense, name, rows, columns in (
            ("up", "_feedforward_intermediate_dense", dim, inner),
            ("down", "_feedforward_output_dense", inner, dim),
        ):
            mapping[f"{ours}/feed_forward/{dense}/kernel"] = whole(
                f"{theirs}/{name}/vars/0", rows, columns
            )
            mapping[f"{ours}/feed_forward/{dense}/bias"] = whole(f"{theirs}/{name}/vars/1", columns)
    return mapping


def _tokenizer(folder: Path) -> "Tokenizer | None":
    from keras_gpt.tokenizers import Tokenizer

    files = folder / "vocabulary.json", folder / "merges.txt"
    there = [file.is_file() for file in files]
    if not any(there):
        return None
    if not all(there):
        raise FileNotFoundError(
            "the preset's tokenizer needs vocabulary.json and merges.txt. Received: no "
            f"{files[there.index(False)]}"
        )
    return Tokenizer.from_files(*files)
