"""OpenAI's original GPT-2 release: a TensorFlow checkpoint, `hparams.json`, `encoder.json`, `vocab.bpe`."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import Checkpoint, Layout, Part, StoredTensor, map_tensors
from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.checkpoints.json_files import read_json
from keras_gpt.config import GPTConfig

# The matrices were one-wide convolutions.
_CONVOLUTION = Layout(lambda tensor: tensor[0], lambda tensor: tensor[None])


def read_openai_gpt2(folder: str | os.PathLike[str]) -> Checkpoint:
    """Open a folder of OpenAI's GPT-2 release, such as 124M.

    TensorFlow's checksums of all tensors are compared here, so a checkpoint that is damaged or
    cut short is refused before any weight is used.

    Args:
        folder: holds `hparams.json`, one checkpoint (`model.ckpt.*`), and the tokenizer's
            `encoder.json` and `vocab.bpe`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the tensors are not those that `hparams.json` describes.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """
    path = Path(folder)
    config = _config(path / "hparams.json")
    return Checkpoint(
        source=str(path),
        model="GPT",
        config=config.to_dict(),
        tensors=map_tensors(_tensors, config, _open(_prefix(path)), str(path)),
        tokenizer=_tokenizer(path),
    )


def _config(file: Path) -> GPTConfig:
    numbers = read_json(file)
    needed = ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
    if not all(isinstance(numbers.get(name), int) for name in needed):
        raise ValueError(f"{file} must hold the integers {needed}. Received: {numbers!s:.300}")
    with naming(file):
        config = GPTConfig(
            vocab_size=numbers["n_vocab"],
            embedding_dim=numbers["n_embd"],
            num_heads=numbers["n_head"],
            feed_forward_dim=4 * numbers["n_embd"],
            num_layers=numbers["n_layer"],
            context_length=numbers["n_ctx"],
        )
    return config


def _prefix(folder: Path) -> Path:
    """Find the checkpoint in the folder; a path that its `checkpoint` file names is not followed."""
    listed = folder / "checkpoint"
    if listed.is_file():
        text = listed.read_text(encoding="utf-8", errors="replace")
        found = re.search(r'^model_checkpoint_path:\s*"(.*)"', text, re.M)
        if found:
            prefix = folder / re.split(r"[/\\]", found[1])[-1]
            if prefix.with_name(prefix.name + ".index").is_file():
                return prefix
    indices = sorted(folder.glob("*.index"))
    if len(indices) != 1:
        raise FileNotFoundError(
            "the folder must hold one TensorFlow checkpoint (model.ckpt.index and its data). "
            f"Received: {[index.name for index in indices]} in {folder}"
        )
    return indices[0].with_suffix("")


def _open(prefix: Path) -> dict[str, StoredTensor]:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        for name in shapes:
            reader.get_tensor(name)  # checks length and checksum
    except Exception as error:  # TensorFlow turns its own codes into IndexError and others
        raise ValueError(
            f"{prefix} is damaged, cut short, or lacks a part of its data "
            f"({str(error).splitlines()[0][:200]}); download it again"
        ) from error
    return {
        name: StoredTensor(tuple(shape), _reader(reader, name)) for name, shape in shapes.items()
    }


def _reader(reader: Any, name: str) -> Callable[[], np.ndarray]:
    return lambda: reader.get_tensor(name)


def _tensors(config: GPTConfig) -> dict[str, tuple[Part, ...]]:
    dim, inner = config.embedding_dim, config.feed_forward_dim

    def vector(name: str, width: int) -> tuple[Part, ...]:
        return (Part(name, (width,), width),)

    mapping: dict[str, tuple[Part, ...]] = {
        "token_embedding/embeddings": (Part("model/wte", (config.vocab_size, dim), dim),),
        "position_embedding/table": (Part("model/wpe", (config.context_length, dim), dim),),
        "final_norm/gamma": vector("model/ln_f/g", dim),
        "final_norm/beta": vector("model/ln_f/b", dim),
    }
    for layer in range(config.num_layers):
        ours, theirs = f"block_{layer}", f"model/h{layer}"
        for norm, name in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
            mapping[f"{ours}/{norm}/gamma"] = vector(f"{theirs}/{name}/g", dim)
            mapping[f"{ours}/{norm}/beta"] = vector(f"{theirs}/{name}/b", dim)
        for dense, name, rows, columns in (
            ("attention/qkv", "attn/c_attn", dim, 3 * dim),
            ("attention/projection", "attn/c_proj", dim, dim),
            ("feed_forward/up", "mlp/c_fc", dim, inner),
            ("feed_forward/down", "mlp/c_proj", inner, dim),
        ):
            kernel = Part(f"{theirs}/{name}/w", (1, rows, columns), columns, _CONVOLUTION)
            mapping[f"{ours}/{dense}/kernel"] = (kernel,)
            mapping[f"{ours}/{dense}/bias"] = vector(f"{theirs}/{name}/b", columns)
    return mapping


def _tokenizer(folder: Path) -> Any:
    from keras_gpt.tokenizers import Tokenizer

    files = folder / "encoder.json", folder / "vocab.bpe"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"the release's tokenizer needs encoder.json and vocab.bpe. Received: no {file}"
            )
    return Tokenizer.from_files(*files)
