"""Reading a folder of Hugging Face's library: GPT-1, GPT-2 and Llama."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import Checkpoint, StoredTensor, map_tensors
from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.checkpoints.huggingface_families import FAMILIES, Family
from keras_gpt.checkpoints.huggingface_text import read_settings, read_tokenizer
from keras_gpt.checkpoints.json_files import read_json
from keras_gpt.checkpoints.safetensors_files import open_safetensors
from keras_gpt.config import GPTConfig

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TORCH_DTYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
_TORCH_WEIGHTS, _TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def read_huggingface(folder: Path, with_weights: bool = True) -> Checkpoint:
    """Open a folder as `save_pretrained` writes it.

    Args:
        folder: holds `config.json`, the weights in safetensors (one file or several with an
            index; `pytorch_model.bin` where torch is installed), and usually a tokenizer.
        with_weights: whether the weights are wanted; without them their files are not looked at.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the architecture or a setting of it is not supported, or a file is damaged.
        ImportError: the weights are torch's and torch is not installed.
    """
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ValueError(
            f"{folder / 'config.json'} must be of one of the architectures {sorted(FAMILIES)}. "
            f"Received: model_type={kind!r:.80}"
        )
    with naming(folder / "config.json"):
        config = GPTConfig.from_dict(family.read(content))
    tensors: Mapping[str, StoredTensor] = {}
    if with_weights:
        stored = _tidy(_open_weights(folder), family, config, str(folder))
        tensors = map_tensors(family.tensors, config, stored, str(folder))
    tokenizer = read_tokenizer(folder, family.model_type)
    with naming(f"the generation settings of {folder}"):
        settings = read_settings(folder, content, config.vocab_size)
    return Checkpoint(
        source=str(folder),
        model="GPT",
        config=config.to_dict(),
        tensors=tensors,
        tokenizer=tokenizer,
        settings=settings,
    )


# -- weights -------------------------------------------------------------------------------------


def _open_weights(folder: Path) -> dict[str, StoredTensor]:
    if (folder / _INDEX).is_file():
        return _open_shards(folder, _INDEX, open_safetensors)
    if (folder / _WEIGHTS).is_file():
        return open_safetensors([folder / _WEIGHTS])
    if (folder / _TORCH_INDEX).is_file():
        return _open_shards(folder, _TORCH_INDEX, _open_torch)
    if (folder / _TORCH_WEIGHTS).is_file():
        return _open_torch([folder / _TORCH_WEIGHTS])
    raise FileNotFoundError(
        f"the folder must hold {_WEIGHTS}, {_INDEX} with its shards, or {_TORCH_WEIGHTS}. "
        f"Received: {folder}"
    )


def _open_shards(
    folder: Path, index: str, opener: Callable[[list[Path]], dict[str, StoredTensor]]
) -> dict[str, StoredTensor]:
    places = read_json(folder / index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{folder / index} must have a weight_map with tensors in it")
    for shard in places.values():
        # Only a bare name stays inside the folder.
        if not isinstance(shard, str) or shard in ("", ".", "..") or set(shard) & set("/\\:\0"):
            raise ValueError(
                f"{folder / index} must name its shards by bare file names. Received: {shard!r}"
            )
    shards = sorted(set(places.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder / index} names shards that the folder lacks: download them again. Received: "
            f"no {missing[:5]}"
        )
    tensors = opener([folder / shard for shard in shards])
    lost = sorted(set(places) ^ set(tensors))
    if lost:
        raise ValueError(
            f"{folder / index} and its shards must name the same tensors. Received: "
            f"{lost[:5]} in only one of them"
        )
    return tensors


def _open_torch(files: list[Path]) -> dict[str, StoredTensor]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{files[0].name} is a file of torch, which is not installed: install torch (it is "
            "opened in its weights-only way), or take a checkpoint in safetensors. Received: "
            f"{files[0]}"
        ) from error
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch has no one class for what it cannot read
            raise ValueError(
                f"{file} is damaged, cut short, or holds more than weights "
                f"({type(error).__name__}: {str(error)[:200]})"
            ) from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{file} must hold tensors by name. Received: {type(loaded).__name__}")
        for name, tensor in loaded.items():
            if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{file} must hold tensors only. Received: {name!r}")
            reason = _why_not(tensor)
            if reason is not None:
                raise ValueError(
                    f"{file} must hold plain tensors, whose numbers numpy knows and which are all "
                    f"in the file. Received: {name!r}, {reason}"
                )
            tensors[name] = StoredTensor(tuple(tensor.shape), _torch_reader(tensor))
    return tensors


def _why_not(tensor: Any) -> str | None:
    """Say what keeps a tensor of torch from being read, or None."""
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        return f"of layout {tensor.layout} on device {tensor.device}"
    if str(tensor.dtype).removeprefix("torch.") not in _TORCH_DTYPES:
        return f"of dtype {tensor.dtype}"
    # A tensor may repeat one number to any length.
    there = tensor.untyped_storage().nbytes() // tensor.element_size()
    if there < tensor.numel():
        return f"of shape {tuple(tensor.shape)}, of which {there} numbers are there"
    return None


def _torch_reader(tensor: Any) -> Callable[[], np.ndarray]:
    values = tensor.detach()  # an nn.Parameter asks for gradients, and numpy has none
    # numpy has no bfloat16 of its own; every value of it is exact in float32.
    return lambda: (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()


def _tidy(
    stored: Mapping[str, StoredTensor], family: Family, config: GPTConfig, source: str
) -> dict[str, StoredTensor]:
    """Drop what no computation reads, and give every name the prefix that the headless class omits."""
    used = {}
    for name, tensor in stored.items():
        if family.unused.fullmatch(name):
            continue
        bare = name.startswith(family.prefix) or name == "lm_head.weight"
        used[name if bare else family.prefix + name] = tensor
    if config.tie_embeddings and "lm_head.weight" in used:
        # Older files keep the tied matrix twice. A different one would be another model.
        head = used.pop("lm_head.weight")
        # One layer is enough: how many the config asks for was not compared with the file yet.
        first_layer = dataclasses.replace(config, num_layers=1)
        parts = family.tensors(first_layer)["token_embedding/embeddings"]
        embeddings = used.get(parts[0].name)
        if embeddings is not None and not np.array_equal(head.read(), embeddings.read()):
            raise ValueError(
                f"{source}: config.json ties the output projection to the embeddings, and "
                "lm_head.weight differs from them. Received: tie_word_embeddings=true"
            )
    return used
