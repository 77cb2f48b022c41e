"""llama.cpp's "gpt2" and "llama" architectures: their settings and tensors in our terms, both ways."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import SAME, TRANSPOSED, Layout, Part, TensorMap
from keras_gpt.checkpoints.config_checks import (
    require_fields,
    require_no_windows,
    require_values,
)
from keras_gpt.checkpoints.gguf_rope import read_rope, require_rope
from keras_gpt.config import GPTConfig

ARCHITECTURES = ("gpt2", "llama")
_LARGEST = float(np.finfo("float32").max)

_COMMON: dict[str, Any] = {
    "norm_placement": "pre",
    "bidirectional_prefix": False,
    "output_activation": None,
}
_GPT2: dict[str, Any] = {
    **_COMMON,
    "normalization": "layer_norm",
    "positions": "learned",
    "feed_forward": "dense",
    "activation": "gelu_tanh",
    "use_bias": True,
}
_LLAMA: dict[str, Any] = {
    **_COMMON,
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
}


def read_config(fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> GPTConfig:
    """Turn a file's settings into our config.

    Args:
        fields: the settings.
        tensors: the tensors by name; whether there is an output matrix decides if it is tied.

    Raises:
        ValueError: the architecture or a setting of it is not supported, or is missing.
    """
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"the file's architecture must be one of {ARCHITECTURES}. Received: "
            f"general.architecture={architecture!r}"
        )

    def take(name: str, kind: type = int) -> Any:
        value = fields.get(f"{architecture}.{name}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(
                f"the file must have the setting {architecture}.{name}. Received: {value!r:.80}"
            )
        return value

    def take_float(name: str) -> float:
        value = take(name, float)
        if not abs(value) <= _LARGEST:  # nan is not either
            raise ValueError(f"{architecture}.{name} must be a finite float32. Received: {value!r}")
        # The shortest decimal number that is this float32: 1e-5 and not 9.99999974e-06.
        return float(str(np.float32(value)))

    if fields.get("split.count", 0) not in (0, 1):
        raise ValueError(
            "the file must hold the whole model; join the parts with llama.cpp's "
            f"`gguf-split --merge`. Received: split.count={fields['split.count']!r}"
        )
    heads, width = take("attention.head_count"), take("embedding_length")
    if heads < 1 or width % heads:
        raise ValueError(
            f"{architecture}.attention.head_count must divide {architecture}.embedding_length. "
            f"Received: {heads} and {width}"
        )
    embeddings = tensors.get("token_embd.weight")
    if embeddings is None:
        raise ValueError(
            "the file must have the tensor token_embd.weight; a file with a vocabulary only holds "
            f"no model. Received: {len(tensors)} tensors"
        )
    tokens = fields.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != embeddings.shape[0]:
        raise ValueError(
            "tokenizer.ggml.tokens must have one entry for each row of token_embd.weight. Received: "
            f"{len(tokens)} and {embeddings.shape[0]}"
        )
    layers = take("block_count")
    # Checked before the names of so many layers' tensors fill the memory.
    if layers > len(tensors):
        raise ValueError(
            f"{architecture}.block_count must be the number of layers in the file. Received: "
            f"{layers}, with {len(tensors)} tensors"
        )
    config = {
        "vocab_size": embeddings.shape[0],
        "embedding_dim": width,
        "num_heads": heads,
        "feed_forward_dim": take("feed_forward_length"),
        "num_layers": layers,
        "context_length": take("context_length"),
        "tie_embeddings": "output.weight" not in tensors,
    }
    _require_plain(fields, architecture, width // heads)
    if architecture == "gpt2":
        epsilon = take_float("attention.layer_norm_epsilon")
        return GPTConfig(**config, **_GPT2, norm_epsilon=epsilon)
    kv_heads = fields.get("llama.attention.head_count_kv", heads)
    if not isinstance(kv_heads, int):
        raise ValueError(
            "llama.attention.head_count_kv must be one number for all layers. Received: "
            f"{kv_heads!r:.80}"
        )
    return GPTConfig(
        **config,
        **_LLAMA,
        num_kv_heads=kv_heads,
        norm_epsilon=take_float("attention.layer_norm_rms_epsilon"),
        rotary_base=take_float("rope.freq_base") if "llama.rope.freq_base" in fields else 10000.0,
        rotary_scaling=read_rope(fields, take_float, config["context_length"]),
    )


def _require_plain(fields: Mapping[str, Any], architecture: str, head_dim: int) -> None:
    """Check the settings that our layers know only one value of."""
    expected: dict[str, Any] = {
        "attention.causal": True,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.sliding_window": 0,
        "expert_count": 0,
    }
    if architecture == "llama":
        expected |= {
            "rope.dimension_count": head_dim,
        }
    prefix = f"{architecture}."
    named = {
        name.removeprefix(prefix): value
        for name, value in fields.items()
        if name.startswith(prefix)
    }
    require_values(named, expected, f"the gguf file's {architecture} settings")


def architecture_of(config: GPTConfig) -> str:
    """Give the architecture that a config of ours is kept as.

    Raises:
        ValueError: there is none; the message names the field.
    """
    llama = config.positions == "rotary" or config.normalization == "rms_norm"
    what = "the gguf format's Llama" if llama else "the gguf format's GPT-2"
    require_no_windows(config, what)
    require_fields(config, _LLAMA if llama else _GPT2, what)
    require_rope(config, what)
    if not llama:
        require_fields(config, {"key_value_heads": config.num_heads}, what)
    return "llama" if llama else "gpt2"


def tensor_map(config: GPTConfig) -> TensorMap:
    """List which tensors of the file make up which of ours."""
    dim, inner = config.embedding_dim, config.feed_forward_dim
    kv_dim = config.key_value_heads * config.head_dim
    llama = architecture_of(config) == "llama"

    def vector(name: str, width: int) -> tuple[Part, ...]:
        return (Part(name, (width,), width),)

    def matrix(name: str, rows: int, columns: int, heads: int | None = None) -> Part:
        layout = TRANSPOSED if heads is None else _interleaved(heads)
        return Part(name, (columns, rows), columns, layout)

    mapping: dict[str, tuple[Part, ...]] = {
        "token_embedding/embeddings": (
            Part("token_embd.weight", (config.vocab_size, dim), dim, SAME),
        )
    }
    if not llama:
        mapping["position_embedding/table"] = (
            Part("position_embd.weight", (config.context_length, dim), dim, SAME),
        )
    ours_of_norm = {"weight": "scale"} if llama else {"weight": "gamma", "bias": "beta"}
    for layer in range(config.num_layers):
        ours, theirs = f"block_{layer}", f"blk.{layer}"
        for norm, name in (("attention_norm", "attn_norm"), ("feed_forward_norm", "ffn_norm")):
            for kind, own in ours_of_norm.items():
                mapping[f"{ours}/{norm}/{own}"] = vector(f"{theirs}.{name}.{kind}", dim)
        if llama:
            mapping[f"{ours}/attention/qkv/kernel"] = (
                matrix(f"{theirs}.attn_q.weight", dim, dim, config.num_heads),
                matrix(f"{theirs}.attn_k.weight", dim, kv_dim, config.key_value_heads),
                matrix(f"{theirs}.attn_v.weight", dim, kv_dim),
            )
        for dense, name, rows, columns in (
            *([] if llama else [("attention/qkv", "attn_qkv", dim, 3 * dim)]),
            ("attention/projection", "attn_output", dim, dim),
            *([("feed_forward/gate", "ffn_gate", dim, inner)] if llama else []),
            ("feed_forward/up", "ffn_up", dim, inner),
            ("feed_forward/down", "ffn_down", inner, dim),
        ):
            mapping[f"{ours}/{dense}/kernel"] = (matrix(f"{theirs}.{name}.weight", rows, columns),)
            if not llama:
                mapping[f"{ours}/{dense}/bias"] = vector(f"{theirs}.{name}.bias", columns)
    for kind, own in ours_of_norm.items():
        mapping[f"final_norm/{own}"] = vector(f"output_norm.{kind}", dim)
    if not config.tie_embeddings:
        mapping["token_embedding/reverse_embeddings"] = (
            matrix("output.weight", dim, config.vocab_size),
        )
    return mapping


def _interleaved(heads: int) -> Layout:
    """Give the layout of queries and keys: llama.cpp turns neighbours, we turn halves of a head.

    Its row 2i of a head is our row i, and its row 2i + 1 our row i + head_dim / 2.
    """

    def to_ours(tensor: np.ndarray) -> np.ndarray:
        pairs = tensor.reshape(heads, -1, 2, tensor.shape[-1])  # (heads, head_dim / 2, 2, in)
        return pairs.swapaxes(1, 2).reshape(tensor.shape).T

    def to_theirs(tensor: np.ndarray) -> np.ndarray:
        halves = tensor.T.reshape(heads, 2, -1, tensor.shape[0])  # (heads, 2, head_dim / 2, in)
        return halves.swapaxes(1, 2).reshape(tensor.shape[1], tensor.shape[0])

    return Layout(to_ours, to_theirs)
