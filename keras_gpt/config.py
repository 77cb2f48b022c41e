"""The architecture of a GPT as one frozen dataclass: presets by name, JSON, and exact counts."""

import dataclasses
import json
import numbers
import sys
from collections.abc import Mapping
from typing import Any

from keras_gpt.rotary_scaling import RotaryScaling

_CHOICES = {
    "norm_placement": ("pre", "post"),
    "normalization": ("layer_norm", "rms_norm"),
    "positions": ("learned", "sinusoidal", "rotary"),
    "feed_forward": ("dense", "gated"),
    "activation": ("gelu", "gelu_tanh", "relu", "silu"),
    "output_activation": (None, "tanh"),
}
_NUMBERS = (
    "norm_epsilon",
    "position_noise",
    "rotary_base",
    "embedding_dropout",
    "attention_dropout",
    "residual_dropout",
    "initializer_range",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """What a GPT is made of; two models with equal configs have the same weights' names and shapes.

    Args:
        vocab_size: number of token ids.
        embedding_dim: width of the residual stream.
        num_heads: attention heads a layer; divides `embedding_dim`.
        feed_forward_dim: inner width of the feed-forward layer.
        num_layers: number of blocks.
        context_length: the most tokens that the model reads at once.
        num_kv_heads: key/value heads, each shared by a group of query heads (grouped-query
            attention); divides `num_heads`. None means as many as `num_heads`.
        norm_placement: "pre" (GPT-2, with a final norm) or "post" (GPT-1, without one).
        normalization: "layer_norm" or "rms_norm".
        norm_epsilon: added to the variance.
        positions: "learned" (a table), "sinusoidal" (fixed) or "rotary" (turns queries and keys).
        position_noise: standard deviation of the noise that is added to sinusoidal positions while
            training; 0 adds none.
        rotary_base: base of the rotary frequencies.
        rotary_scaling: how they are slowed for a context longer than the trained one (or the
            dictionary of its fields); None leaves them.
        feed_forward: "dense" (two matrices) or "gated" (three: activation(gate) * up).
        activation: "gelu_tanh", "gelu" (exact), "relu" or "silu".
        use_bias: whether the dense layers (and layer norms) have a bias.
        attention_windows: how many positions, itself included, a query sees, cycled over the
            layers; None is all. (None, 256) alternates full and banded layers, as GPT-3 does.
        bidirectional_prefix: whether the first tokens of a row (the source of P(target | source),
            or the prompt) see each other both ways; the rest is causal.
        output_activation: None, or "tanh" applied to the last state before the output projection.
        tie_embeddings: whether the output projection is the token embedding, transposed.
        embedding_dropout: rate after the embeddings, from 0 to below 1.
        attention_dropout: rate on the attention weights.
        residual_dropout: rate on what each attention and feed-forward layer adds.
        initializer_range: standard deviation of the initial weights.

    Raises:
        ValueError: a field is out of range; the message names it.

    Example:
        >>> GPTConfig.preset("gpt2").num_parameters
        124439808

    Sources: GPT-1, "Improving Language Understanding by Generative Pre-Training" (2018); GPT-2,
    "Language Models are Unsupervised Multitask Learners" (2019); GPT-3, "Language Models are
    Few-Shot Learners" (2020), Table 2.1; rotary positions, arXiv:2104.09864; RMS norm,
    arXiv:1910.07467; gated feed-forward, arXiv:2002.05202; grouped queries, arXiv:2305.13245.
    """

    vocab_size: int
    embedding_dim: int
    num_heads: int
    feed_forward_dim: int
    num_layers: int
    context_length: int = 1024
    num_kv_heads: int | None = None
    norm_placement: str = "pre"
    normalization: str = "layer_norm"
    norm_epsilon: float = 1e-5
    positions: str = "learned"
    position_noise: float = 0.0
    rotary_base: float = 10000.0
    rotary_scaling: RotaryScaling | None = None
    feed_forward: str = "dense"
    activation: str = "gelu_tanh"
    use_bias: bool = True
    attention_windows: tuple[int | None, ...] = (None,)
    bidirectional_prefix: bool = False
    output_activation: str | None = None
    tie_embeddings: bool = True
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        """Check every field, so that a wrong one is named here and not deep in a layer."""
        if not isinstance(self.attention_windows, list | tuple):
            raise ValueError(
                "attention_windows must be a tuple, one window a layer and then again, such as "
                f"(None, 256). Received: attention_windows={self.attention_windows!r}"
            )
        for name in (
            "vocab_size",
            "embedding_dim",
            "num_heads",
            "feed_forward_dim",
            "num_layers",
            "context_length",
        ):
            object.__setattr__(self, name, _positive_int(name, getattr(self, name)))
        if self.num_kv_heads is not None:
            heads = _positive_int("num_kv_heads", self.num_kv_heads)
            object.__setattr__(self, "num_kv_heads", heads)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}. Received: {name}={getattr(self, name)!r}"
                )
        for name in ("use_bias", "bidirectional_prefix", "tie_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be True or False. Received: {name}={getattr(self, name)!r}"
                )
        for name in _NUMBERS:
            value = getattr(self, name)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            # nan is not below anything.
            if not good or not abs(value) <= sys.float_info.max:
                raise ValueError(f"{name} must be a finite number. Received: {name}={value!r:.80}")
            object.__setattr__(self, name, float(value))
        if self.embedding_dim % self.num_heads:
            raise ValueError(
                "num_heads must divide embedding_dim. Received: "
                f"num_heads={self.num_heads}, embedding_dim={self.embedding_dim}"
            )
        if self.num_heads % self.key_value_heads:
            raise ValueError(
                "num_kv_heads must divide num_heads. Received: "
                f"num_kv_heads={self.num_kv_heads}, num_heads={self.num_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                "rotary positions turn pairs of numbers, so embedding_dim / num_heads must be even. "
                f"Received: embedding_dim={self.embedding_dim}, num_heads={self.num_heads}"
            )
        if self.position_noise and self.positions != "sinusoidal":
            raise ValueError(
                "position_noise belongs to sinusoidal positions. Received: "
                f"position_noise={self.position_noise}, positions={self.positions!r}"
            )
        if not self.attention_windows:
            raise ValueError("attention_windows must name at least one window. Received: ()")
        windows = tuple(
            None if window is None else _positive_int("attention_windows", window)
            for window in self.attention_windows
        )
        object.__setattr__(self, "attention_windows", windows)
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(
                    f"{name} must be from 0 to below 1. Received: {name}={getattr(self, name)}"
                )
        for name in ("norm_epsilon", "rotary_base", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0. Received: {name}={getattr(self, name)}")
        if self.position_noise < 0:
            raise ValueError(
                f"position_noise must be 0 or more. Received: position_noise={self.position_noise}"
            )
        scaling = RotaryScaling.of(self.rotary_scaling)
        object.__setattr__(self, "rotary_scaling", scaling)
        if scaling is not None:
            if self.positions != "rotary":
                raise ValueError(
                    "rotary_scaling belongs to rotary positions. Received: "
                    f"rotary_scaling={scaling.to_dict()}, positions={self.positions!r}"
                )
            scaling.require_fit(self.head_dim, self.rotary_base)

    # -- presets and JSON -------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "GPTConfig":
        """Give the architecture of a published model by its name.

        Args:
            name: "gpt1", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", or "gpt3-" with 125m,
                350m, 760m, 1.3b, 2.7b, 6.7b, 13b or 175b.
            **changes: fields to set otherwise.

        Raises:
            ValueError: the name is unknown.

        Example:
            >>> GPTConfig.preset("gpt2", context_length=256).context_length
            256
        """
        if name not in _PRESETS:
            raise ValueError(f"name must be one of {sorted(_PRESETS)}. Received: name={name!r}")
        return cls(**{**_PRESETS[name], **changes})

    @staticmethod
    def preset_names() -> list[str]:
        """List the names that `preset` knows."""
        return list(_PRESETS)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as a dictionary of JSON's types; `GPTConfig(**d)` is equal to this one."""
        fields = dataclasses.asdict(self)
        fields["attention_windows"] = list(self.attention_windows)
        if self.rotary_scaling is not None:
            fields["rotary_scaling"] = self.rotary_scaling.to_dict()
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "GPTConfig":
        """Make a config from a dictionary of its fields.

        Raises:
            ValueError: there is no dictionary, or a field is unknown, missing or out of range.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"fields must be a dictionary. Received: fields={fields!r:.80}")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(f"fields must be those of GPTConfig. Received: unknown {unknown}")
        required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
        missing = sorted(required - set(fields))
        if missing:
            raise ValueError(f"fields must hold {sorted(required)}. Received: without {missing}")
        return cls(**fields)

    @classmethod
    def of(cls, config: "GPTConfig | Mapping[str, Any]") -> "GPTConfig":
        """Take a config, or the dictionary that a saved layer holds in its place."""
        return config if isinstance(config, GPTConfig) else cls.from_dict(config)

    def to_json(self) -> str:
        """Give the config as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "GPTConfig":
        """Make a config from what `to_json` gave.

        Raises:
            ValueError: it is not JSON, or no dictionary of a config's fields.
        """
        try:
            fields = json.loads(text)
        except RecursionError:
            raise ValueError(
                f"text must be JSON that is not nested so deeply. Received: text={text!r:.80}"
            ) from None
        if not isinstance(fields, dict):
            raise ValueError(f"text must hold a JSON object. Received: text={text!r:.80}")
        return cls.from_dict(fields)

    # -- what follows from the fields -------------------------------------------------------------

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.embedding_dim // self.num_heads

    @property
    def key_value_heads(self) -> int:
        """Number of key/value heads, also where `num_kv_heads` is None."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def attention_window(self, layer: int) -> int | None:
        """Give how many positions a query of that layer sees, itself included; None is all."""
        return self.attention_windows[layer % len(self.attention_windows)]

    @property
    def num_parameters(self) -> int:
        """Exact number of trainable weights, by arithmetic: nothing is allocated."""
        dim, inner = self.embedding_dim, self.feed_forward_dim
        kv_dim = self.key_value_heads * self.head_dim
        bias = 1 if self.use_bias else 0
        norm = dim * (1 + bias) if self.normalization == "layer_norm" else dim
        attention = dim * (dim + 2 * kv_dim) + dim * dim + bias * (dim + 2 * kv_dim + dim)
        into_inner = 2 if self.feed_forward == "gated" else 1
        feed_forward = (into_inner + 1) * dim * inner + bias * (into_inner * inner + dim)
        total = self.num_layers * (attention + feed_forward + 2 * norm)
        total += self.vocab_size * dim * (1 if self.tie_embeddings else 2)
        if self.positions == "learned":
            total += self.context_length * dim
        if self.norm_placement == "pre":
            total += norm
        return total

    def flops_per_token(self, sequence_length: int) -> int:
        """Count the floating-point operations that training spends on one token.

        Forward and backward are three times the forward pass; a multiply and an add are two. The
        weights of every matrix count once a token, and each layer's attention reads the positions
        that its window leaves (the half above the diagonal is counted, as is usual). Source:
        PaLM, arXiv:2204.02311, appendix B.

        Args:
            sequence_length: tokens a row.
        """
        _positive_int("sequence_length", sequence_length)
        dim = self.embedding_dim
        kv_dim = self.key_value_heads * self.head_dim
        into_inner = 2 if self.feed_forward == "gated" else 1
        matrices = self.num_layers * (
            dim * (dim + 2 * kv_dim) + dim * dim + (into_inner + 1) * dim * self.feed_forward_dim
        )
        matrices += self.vocab_size * dim
        seen = sum(
            min(sequence_length, self.attention_window(layer) or sequence_length)
            for layer in range(self.num_layers)
        )
        return 6 * matrices + 12 * dim * seen


def _positive_int(name: str, value: Any) -> int:
    """Take whatever counts as an integer, numpy's included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be a positive integer. Received: {name}={value!r}")
    return int(value)


def _gpt(dim: int, heads: int, layers: int, **fields: Any) -> dict[str, Any]:
    return {
        "embedding_dim": dim,
        "num_heads": heads,
        "feed_forward_dim": 4 * dim,
        "num_layers": layers,
        **fields,
    }


_DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "residual_dropout": 0.1}
_GPT1 = {"vocab_size": 40478, "context_length": 512, "norm_placement": "post", **_DROPOUT}
_GPT2 = {"vocab_size": 50257, "context_length": 1024, **_DROPOUT}
# The GPT-3 paper says "alternating dense and locally banded sparse attention patterns in the layers"
# and leaves the band's width open; 256 is ours.
_GPT3 = {"vocab_size": 50257, "context_length": 2048, "attention_windows": (None, 256)}

# Table 2.1 prints 24 heads of 128 at width 2048 for 1.3B, and width 5140 for 40 heads of 128 at 13B.
# Neither divides. 16 heads and width 5120 do, and they alone give the counts that the same paper
# lists in Table D.1 (1,320M and 12,850M).
_PRESETS: dict[str, dict[str, Any]] = {
    "gpt1": _gpt(768, 12, 12, **_GPT1),
    "gpt2": _gpt(768, 12, 12, **_GPT2),
    "gpt2-medium": _gpt(1024, 16, 24, **_GPT2),
    "gpt2-large": _gpt(1280, 20, 36, **_GPT2),
    "gpt2-xl": _gpt(1600, 25, 48, **_GPT2),
    "gpt3-125m": _gpt(768, 12, 12, **_GPT3),
    "gpt3-350m": _gpt(1024, 16, 24, **_GPT3),
    "gpt3-760m": _gpt(1536, 16, 24, **_GPT3),
    "gpt3-1.3b": _gpt(2048, 16, 24, **_GPT3),
    "gpt3-2.7b": _gpt(2560, 32, 32, **_GPT3),
    "gpt3-6.7b": _gpt(4096, 32, 32, **_GPT3),
    "gpt3-13b": _gpt(5120, 40, 40, **_GPT3),
    "gpt3-175b": _gpt(12288, 96, 96, **_GPT3),
}
