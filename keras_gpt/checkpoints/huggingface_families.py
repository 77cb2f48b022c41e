"""Hugging Face's GPT-1, GPT-2 and Llama: their configs and tensors in our terms, both ways."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from keras_gpt.checkpoints.checkpoint import TRANSPOSED, Part, TensorMap
from keras_gpt.checkpoints.config_checks import (
    choose,
    require_fields,
    require_no_windows,
    require_objects,
    require_values,
    take,
)
from keras_gpt.checkpoints.huggingface_rope import read_rope, write_rope
from keras_gpt.config import GPTConfig


class Family(NamedTuple):
    """One architecture of Hugging Face's library.

    Args:
        model_type: its name in `config.json`.
        class_name: the class that has the language-model head.
        read: the content of `config.json` -> the fields of our config.
        write: our config -> the content of `config.json`, or ValueError naming what does not fit.
        tensors: our config -> which tensors make up which.
        prefix: stands before every name but the head's, in files of the class with the head.
        unused: names that files hold and no computation reads.
    """

    model_type: str
    class_name: str
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[GPTConfig], dict[str, Any]]
    tensors: Callable[[GPTConfig], TensorMap]
    prefix: str
    unused: re.Pattern[str]


def family_of_config(config: GPTConfig) -> Family:
    """Give the family that can hold a model of ours.

    Raises:
        ValueError: none can; the message names the fields.
    """
    if config.positions == "rotary" or config.normalization == "rms_norm":
        return FAMILIES["llama"]
    return FAMILIES["openai-gpt" if config.norm_placement == "post" else "gpt2"]


# -- GPT-2 and GPT-1 -----------------------------------------------------------------------------

_GPT2_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# GPT-1's "gelu" is the tanh approximation: OpenAI's code has no other.
_GPT1_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}

_GPT_FIELDS = {
    "normalization": "layer_norm",
    "positions": "learned",
    "feed_forward": "dense",
    "use_bias": True,
    "bidirectional_prefix": False,
    "output_activation": None,
}


def _read_gpt2(content: Mapping[str, Any]) -> dict[str, Any]:
    require_values(
        content,
        {
            "add_cross_attention": False,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
        "GPT-2's config.json",
    )
    width = take(content, "n_embd", "hidden_size")
    return {
        **_read_gpt(content, width),
        "feed_forward_dim": content.get("n_inner") or 4 * width,
        "norm_placement": "pre",
        "activation": choose(
            _GPT2_ACTIVATIONS,
            content.get("activation_function", "gelu_new"),
            "activation_function",
        ),
        "tie_embeddings": bool(content.get("tie_word_embeddings", True)),
    }


def _read_gpt1(content: Mapping[str, Any]) -> dict[str, Any]:
    require_values(content, {"tie_word_embeddings": True}, "GPT-1's config.json")
    width = take(content, "n_embd", "hidden_size")
    return {
        **_read_gpt(content, width),
        "feed_forward_dim": 4 * width,
        "norm_placement": "post",
        "activation": choose(_GPT1_ACTIVATIONS, content.get("afn", "gelu"), "afn"),
    }


def _read_gpt(content: Mapping[str, Any], width: int) -> dict[str, Any]:
    return {
        "vocab_size": take(content, "vocab_size"),
        "embedding_dim": width,
        "num_heads": take(content, "n_head", "num_attention_heads"),
        "num_layers": take(content, "n_layer", "num_hidden_layers"),
        "context_length": take(content, "n_positions", "n_ctx", "max_position_embeddings"),
        "norm_epsilon": content.get("layer_norm_epsilon", 1e-5),
        "embedding_dropout": content.get("embd_pdrop", 0.1),
        "attention_dropout": content.get("attn_pdrop", 0.1),
        "residual_dropout": content.get("resid_pdrop", 0.1),
        "initializer_range": content.get("initializer_range", 0.02),
    }


def _write_gpt2(config: GPTConfig) -> dict[str, Any]:
    written = {ours: theirs for theirs, ours in reversed(_GPT2_ACTIVATIONS.items())}
    return {
        **_write_gpt(config, "Hugging Face's GPT-2"),
        "activation_function": written[config.activation],
        "n_inner": config.feed_forward_dim,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _write_gpt1(config: GPTConfig) -> dict[str, Any]:
    what = "Hugging Face's GPT-1"
    inner = {"feed_forward_dim": 4 * config.embedding_dim, "tie_embeddings": True}
    require_fields(config, inner, what)
    written = {ours: theirs for theirs, ours in reversed(_GPT1_ACTIVATIONS.items())}
    return {
        **_write_gpt(config, what),
        "afn": choose(written, config.activation, "activation"),
        "tie_word_embeddings": True,
    }


def _write_gpt(config: GPTConfig, what: str) -> dict[str, Any]:
    require_no_windows(config, what)
    require_fields(config, {**_GPT_FIELDS, "key_value_heads": config.num_heads}, what)
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.embedding_dim,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.context_length,
        "layer_norm_epsilon": config.norm_epsilon,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "initializer_range": config.initializer_range,
    }


def _gpt_tensors(config: GPTConfig, prefix: str, tokens: str, positions: str) -> TensorMap:
    """List the tensors of GPT-1 and GPT-2, whose matrices lie as ours do, (in, out)."""
    dim, inner = config.embedding_dim, config.feed_forward_dim

    def whole(name: str, *shape: int) -> tuple[Part, ...]:
        return (Part(prefix + name, shape, shape[-1]),)

    mapping = {
        "token_embedding/embeddings": whole(f"{tokens}.weight", config.vocab_size, dim),
        "position_embedding/table": whole(f"{positions}.weight", config.context_length, dim),
    }
    for layer in range(config.num_layers):
        ours, theirs = f"block_{layer}", f"h.{layer}"
        for norm, name in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
            mapping[f"{ours}/{norm}/gamma"] = whole(f"{theirs}.{name}.weight", dim)
            mapping[f"{ours}/{norm}/beta"] = whole(f"{theirs}.{name}.bias", dim)
        for dense, name, rows, columns in (
            ("attention/qkv", "attn.c_attn", dim, 3 * dim),
            ("attention/projection", "attn.c_proj", dim, dim),
            ("feed_forward/up", "mlp.c_fc", dim, inner),
            ("feed_forward/down", "mlp.c_proj", inner, dim),
        ):
            mapping[f"{ours}/{dense}/kernel"] = whole(f"{theirs}.{name}.weight", rows, columns)
            mapping[f"{ours}/{dense}/bias"] = whole(f"{theirs}.{name}.bias", columns)
    return mapping


def _gpt2_tensors(config: GPTConfig) -> TensorMap:
    dim = config.embedding_dim
    mapping = dict(_gpt_tensors(config, "transformer.", "wte", "wpe"))
    mapping["final_norm/gamma"] = (Part("transformer.ln_f.weight", (dim,), dim),)
    mapping["final_norm/beta"] = (Part("transformer.ln_f.bias", (dim,), dim),)
    if not config.tie_embeddings:
        mapping["token_embedding/reverse_embeddings"] = (_head(config),)
    return mapping


def _gpt1_tensors(config: GPTConfig) -> TensorMap:
    return _gpt_tensors(config, "transformer.", "tokens_embed", "positions_embed")


def _head(config: GPTConfig) -> Part:
    shape = (config.vocab_size, config.embedding_dim)
    return Part("lm_head.weight", shape, config.vocab_size, TRANSPOSED)


# -- Llama ---------------------------------------------------------------------------------------

_LLAMA_FIELDS = {
    "norm_placement": "pre",
    "normalization": "rms_norm",
    "positions": "rotary",
    "feed_forward": "gated",
    "activation": "silu",
    "use_bias": False,
    "bidirectional_prefix": False,
    "output_activation": None,
    "embedding_dropout": 0.0,
    "residual_dropout": 0.0,
}


def _read_llama(content: Mapping[str, Any]) -> dict[str, Any]:
    what = "Llama's config.json"
    require_objects(content, ("rope_parameters", "rope_scaling"), what)
    width, heads = take(content, "hidden_size"), take(content, "num_attention_heads")
    require_values(
        {**content, "head_dim": content.get("head_dim") or width // heads},
        {"attention_bias": False, "mlp_bias": False, "head_dim": width // heads},
        what,
    )
    # transformers 5 keeps all in rope_parameters; older files have rope_theta and rope_scaling. Where
    # a file has both, the library takes rope_scaling.
    field = "rope_scaling" if content.get("rope_scaling") else "rope_parameters"
    rope = content.get(field) or {}
    return {
        "vocab_size": take(content, "vocab_size"),
        "embedding_dim": width,
        "num_heads": heads,
        "num_kv_heads": content.get("num_key_value_heads") or heads,
        "feed_forward_dim": take(content, "intermediate_size"),
        "num_layers": take(content, "num_hidden_layers"),
        "context_length": take(content, "max_position_embeddings"),
        "norm_epsilon": content.get("rms_norm_eps", 1e-6),
        "rotary_base": rope.get("rope_theta") or content.get("rope_theta") or 10000.0,
        "rotary_scaling": read_rope(content, field, what),
        "activation": choose({"silu": "silu"}, content.get("hidden_act", "silu"), "hidden_act"),
        "attention_dropout": content.get("attention_dropout", 0.0),
        "initializer_range": content.get("initializer_range", 0.02),
        "tie_embeddings": bool(content.get("tie_word_embeddings", False)),
        **{name: _LLAMA_FIELDS[name] for name in ("norm_placement", "normalization", "positions")},
        "feed_forward": "gated",
        "use_bias": False,
    }


def _write_llama(config: GPTConfig) -> dict[str, Any]:
    what = "Hugging Face's Llama"
    require_no_windows(config, what)
    require_fields(config, _LLAMA_FIELDS, what)
    scaling = write_rope(config.rotary_scaling)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embedding_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.feed_forward_dim,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        # The one is read by transformers 5, the others by those before.
        "rope_parameters": {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": config.rotary_base,
        },
        "rope_theta": config.rotary_base,
        "rope_scaling": scaling,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _llama_tensors(config: GPTConfig) -> TensorMap:
    dim, inner = config.embedding_dim, config.feed_forward_dim
    kv_dim = config.key_value_heads * config.head_dim

    def dense(name: str, rows: int, columns: int) -> Part:
        return Part(f"{name}.weight", (columns, rows), columns, TRANSPOSED)

    def norm(name: str) -> tuple[Part, ...]:
        return (Part(f"{name}.weight", (dim,), dim),)

    embeddings = Part("model.embed_tokens.weight", (config.vocab_size, dim), dim)
    mapping: dict[str, tuple[Part, ...]] = {"token_embedding/embeddings": (embeddings,)}
    for layer in range(config.num_layers):
        ours, theirs = f"block_{layer}", f"model.layers.{layer}"
        mapping |= {
            f"{ours}/attention_norm/scale": norm(f"{theirs}.input_layernorm"),
            f"{ours}/attention/qkv/kernel": (
                dense(f"{theirs}.self_attn.q_proj", dim, dim),
                dense(f"{theirs}.self_attn.k_proj", dim, kv_dim),
                dense(f"{theirs}.self_attn.v_proj", dim, kv_dim),
            ),
            f"{ours}/attention/projection/kernel": (dense(f"{theirs}.self_attn.o_proj", dim, dim),),
            f"{ours}/feed_forward_norm/scale": norm(f"{theirs}.post_attention_layernorm"),
            f"{ours}/feed_forward/gate/kernel": (dense(f"{theirs}.mlp.gate_proj", dim, inner),),
            f"{ours}/feed_forward/up/kernel": (dense(f"{theirs}.mlp.up_proj", dim, inner),),
            f"{ours}/feed_forward/down/kernel": (dense(f"{theirs}.mlp.down_proj", inner, dim),),
        }
    mapping["final_norm/scale"] = norm("model.norm")
    if not config.tie_embeddings:
        mapping["token_embedding/reverse_embeddings"] = (_head(config),)
    return mapping


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "openai-gpt",
            "OpenAIGPTLMHeadModel",
            _read_gpt1,
            _write_gpt1,
            _gpt1_tensors,
            "transformer.",
            re.compile(r"(transformer\.)?h\.\d+\.attn\.bias|(transformer\.)?position_ids"),
        ),
        Family(
            "gpt2",
            "GPT2LMHeadModel",
            _read_gpt2,
            _write_gpt2,
            _gpt2_tensors,
            "transformer.",
            re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"),
        ),
        Family(
            "llama",
            "LlamaForCausalLM",
            _read_llama,
            _write_llama,
            _llama_tensors,
            "model.",
            re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
        ),
    )
}
