"""OpenAI's original GPT-2 release: a TensorFlow checkpoint with `hparams.json` beside it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import (
    SAME,
    Checkpoint,
    Layout,
    Part,
    StoredTensor,
    TensorMap,
    map_tensors,
)
from keras_gpt.checkpoints.huggingface_reader import read_json
from keras_gpt.config import GPTConfig

# Their dense layers are convolutions of width 1, whose matrices have one more axis.
_CONVOLUTION = Layout(lambda tensor: tensor[0], lambda tensor: tensor[None])
_NAMED = re.compile(r'^\s*model_checkpoint_path\s*:\s*"([^"]*)"', re.MULTILINE)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def read_openai_gpt2(folder: Path, with_weights: bool = True) -> Checkpoint:
    """Open a folder of OpenAI's GPT-2 release, or one that was fine-tuned with its code.

    Every tensor's checksum is compared here, so that damage is found before a weight is used.

    Args:
        folder: holds `hparams.json`, `encoder.json`, `vocab.bpe` and a TensorFlow checkpoint:
            `model.ckpt.index` and `model.ckpt.data-00000-of-00001`, or what `checkpoint` names.
        with_weights: whether the weights are wanted; without them their files are not looked at.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the files do not fit together.

    Example:
        >>> read_openai_gpt2(Path("models/124M")).config["num_layers"]
        12

    Source: the code that was released with "Language Models are Unsupervised Multitask Learners"
    (2019), which names the variables and lists the hyperparameters.
    """
    from keras_gpt.tokenizers import Tokenizer

    config = _config(read_json(folder / "hparams.json"), folder / "hparams.json")
    vocabulary, merges = folder / "encoder.json", folder / "vocab.bpe"
    for file in (vocabulary, merges):
        require_file(file)
    tensors: Mapping[str, StoredTensor] = {}
    if with_weights:
        reader = _open(_prefix(folder))
        stored = {
            name: StoredTensor(tuple(shape), lambda name=name: reader.get_tensor(name))
            for name, shape in reader.get_variable_to_shape_map().items()
        }
        tensors = map_tensors(_tensor_map(config), stored, str(folder))
        _check_values(reader, folder)
    return Checkpoint(
        source=str(folder),
        model="GPT",
        config=config.to_dict(),
        tensors=tensors,
        tokenizer=Tokenizer.from_files(vocabulary, merges),
    )


def require_file(file: Path) -> None:
    """Check that a release has one of its files.

    Raises:
        FileNotFoundError: it has not.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the folder must hold {file.name}. Received: no file {file}")


def block_tensors(config: GPTConfig, layer: int) -> TensorMap:
    """List the variables of one block, in the order in which OpenAI's code makes them.

    GPT-1 and GPT-2 have the same ones under the same names.

    Args:
        config: gives the widths.
        layer: the block's number.
    """
    dim, inner = config.embedding_dim, config.feed_forward_dim
    ours, theirs = f"block_{layer}", f"model/h{layer}"

    def dense(our: str, their: str, rows: int, columns: int) -> dict[str, tuple[Part, ...]]:
        kernel = Part(f"{theirs}/{their}/w", (1, rows, columns), columns, _CONVOLUTION)
        bias = Part(f"{theirs}/{their}/b", (columns,), columns, SAME)
        return {f"{ours}/{our}/kernel": (kernel,), f"{ours}/{our}/bias": (bias,)}

    return {
        **dense("attention/qkv", "attn/c_attn", dim, 3 * dim),
        **dense("attention/projection", "attn/c_proj", dim, dim),
        **norm_tensors(f"{ours}/attention_norm", f"{theirs}/ln_1", dim),
        **dense("feed_forward/up", "mlp/c_fc", dim, inner),
        **dense("feed_forward/down", "mlp/c_proj", inner, dim),
        **norm_tensors(f"{ours}/feed_forward_norm", f"{theirs}/ln_2", dim),
    }


def norm_tensors(ours: str, theirs: str, dim: int) -> TensorMap:
    """List the two variables of a layer norm."""
    return {
        f"{ours}/gamma": (Part(f"{theirs}/g", (dim,), dim),),
        f"{ours}/beta": (Part(f"{theirs}/b", (dim,), dim),),
    }


def _tensor_map(config: GPTConfig) -> TensorMap:
    dim = config.embedding_dim
    mapping = {
        "token_embedding/embeddings": (Part("model/wte", (config.vocab_size, dim), dim),),
        "position_embedding/table": (Part("model/wpe", (config.context_length, dim), dim),),
    }
    for layer in range(config.num_layers):
        mapping |= block_tensors(config, layer)
    return {**mapping, **norm_tensors("final_norm", "model/ln_f", dim)}


def _config(hparams: Mapping[str, Any], file: Path) -> GPTConfig:
    for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"):
        value = hparams.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{file}: {name} must be a positive integer. Received: {value!r:.80}")
    if hparams["n_embd"] % hparams["n_head"]:
        raise ValueError(
            f"{file}: n_head must divide n_embd. Received: n_head={hparams['n_head']}, "
            f"n_embd={hparams['n_embd']}"
        )
    return GPTConfig.preset(
        "gpt2",
        vocab_size=hparams["n_vocab"],
        context_length=hparams["n_ctx"],
        embedding_dim=hparams["n_embd"],
        num_heads=hparams["n_head"],
        feed_forward_dim=4 * hparams["n_embd"],
        num_layers=hparams["n_layer"],
    )


def _prefix(folder: Path) -> Path:
    """Give what the names of the checkpoint's files begin with."""
    named = folder / "checkpoint"
    if named.is_file():
        found = _NAMED.search(named.read_text(encoding="utf-8", errors="replace"))
        # It may be a path on the machine that wrote it; only its last part counts here.
        name = re.split(r"[/\\]", found[1])[-1] if found else ""
        if name in ("", ".", ".."):
            raise ValueError(
                f"{named} must name the checkpoint, as in model_checkpoint_path: "
                '"model.ckpt". Received: no name'
            )
    else:
        names = sorted(file.name.removesuffix(".index") for file in folder.glob("*.index"))
        if len(names) > 1:
            raise ValueError(
                "the folder must hold one checkpoint, or a file named checkpoint that says which. "
                f"Received: {names[:5]} in {folder}"
            )
        name = names[0] if names else "model.ckpt"
    require_file(folder / f"{name}.index")
    shards = sorted(file.name for file in folder.iterdir() if file.name.startswith(f"{name}.data-"))
    wanted = _SHARD.search(shards[0]) if shards else None
    count = int(wanted[2]) if wanted else 1
    for number in range(count):
        require_file(folder / f"{name}.data-{number:05}-of-{count:05}")
    return folder / name


def _open(prefix: Path) -> Any:
    import tensorflow as tf

    try:
        return tf.compat.v1.train.NewCheckpointReader(str(prefix))
    except (tf.errors.OpError, LookupError, RuntimeError, ValueError) as error:
        raise _damaged(f"{prefix}.index", error) from error


def _check_values(reader: Any, folder: Path) -> None:
    import tensorflow as tf

    for name in reader.get_variable_to_shape_map():
        try:
            value = reader.get_tensor(name)
        # A file that is cut short comes as an IndexError, a wrong checksum as an OpError.
        except (tf.errors.OpError, LookupError, RuntimeError, ValueError) as error:
            raise _damaged(f"{folder}: the checkpoint's tensor {name}", error) from error
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(
                f"{folder}: the checkpoint's tensor {name} must hold floating-point numbers. "
                f"Received: {value.dtype}"
            )


def _damaged(what: str, error: Exception) -> ValueError:
    return ValueError(
        f"{what} is damaged or cut short; download the checkpoint again. Received: "
        f"{type(error).__name__}: {str(error)[:200]}"
    )
