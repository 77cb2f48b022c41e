"""How a gguf file of a Llama says that rotary frequencies are slowed: in our terms, both ways."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.config import GPTConfig
from keras_gpt.rotary_scaling import RotaryScaling, rotary_frequencies

# The tensor that holds what each frequency is divided by.
FACTORS = "rope_freqs.weight"
_SCALING = "rope.scaling."
# What all of Meta's models with "llama3", from Llama 3.1 on, have in common.
_LLAMA3: dict[str, Any] = {
    "original_context_length": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def read_rope(
    fields: Mapping[str, Any], take_float: Callable[[str], float], context_length: int
) -> RotaryScaling | None:
    """Read the scaling that a Llama's settings ask for, as llama.cpp does.

    Args:
        fields: the file's settings.
        take_float: gives the number under a name without "llama."; ValueError where there is none.
        context_length: what YaRN takes for the original one where the file names none.

    Raises:
        ValueError: it is a kind, or has a setting, that our layers have not; the message names it.
    """

    def number(name: str, default: float) -> float:
        return take_float(name) if f"llama.{name}" in fields else default

    # A scaling without a type is linear, and a factor of 0 is none.
    kind = fields.get(f"llama.{_SCALING}type", "linear")
    factor = number(f"{_SCALING}factor", number("rope.scale_linear", 1.0)) or 1.0
    multiplier = number(f"{_SCALING}attn_factor", 1.0)
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(
            "llama.rope.scaling.type must be 'none', 'linear' or 'yarn'. Received: "
            f"rope.scaling.type={kind!r:.80}"
        )
    if kind != "yarn":
        _require_number(f"{_SCALING}attn_factor", multiplier, 1.0)
        if kind == "none" or factor == 1.0:
            return None
        with naming("the gguf file's rope.scaling.type='linear'"):
            return RotaryScaling(method="linear", factor=factor)
    _require_number(f"{_SCALING}yarn_ext_factor", number(f"{_SCALING}yarn_ext_factor", 1.0), 1.0)
    log_multiplier = number(f"{_SCALING}yarn_log_multiplier", 0.0)
    _require_number(f"{_SCALING}yarn_log_multiplier", log_multiplier, 0.0)
    if f"llama.{_SCALING}yarn_attn_factor" in fields:
        # Converters write the whole multiplier here; llama.cpp multiplies by it, or skips it.
        raise ValueError(
            "the gguf file must have no llama.rope.scaling.yarn_attn_factor, which programs read "
            "in several ways. Received: rope.scaling.yarn_attn_factor="
            f"{fields[f'llama.{_SCALING}yarn_attn_factor']!r:.80}"
        )
    with naming("the gguf file's rope.scaling.type='yarn'"):
        usual = RotaryScaling(
            method="yarn",
            factor=factor,
            original_context_length=fields.get(
                f"llama.{_SCALING}original_context_length", context_length
            ),
            beta_fast=number(f"{_SCALING}yarn_beta_fast", 32.0),
            beta_slow=number(f"{_SCALING}yarn_beta_slow", 1.0),
        )
        if multiplier == 1.0:
            return usual
        # attn_factor comes on top of YaRN's own multiplier.
        fields_of_usual = {**usual.to_dict(), "attention_factor": multiplier * usual.multiplier}
        return RotaryScaling(**fields_of_usual)


def _require_number(name: str, value: float, only: float) -> None:
    if value != only:
        raise ValueError(
            f"the gguf file's llama.{name} must be {only}, the only one that is supported. "
            f"Received: {name}={value}"
        )


def llama3_factors(config: GPTConfig) -> np.ndarray | None:
    """Give what llama.cpp divides each frequency by, for `FACTORS`; None but for "llama3"."""
    scaling = config.rotary_scaling
    if scaling is None or scaling.method != "llama3":
        return None
    plain = rotary_frequencies(config.head_dim, config.rotary_base)
    return (plain / scaling.frequencies(config.head_dim, config.rotary_base)).astype("float32")


def llama3_of_factors(factors: np.ndarray, config: GPTConfig) -> RotaryScaling | None:
    """Find the scaling that a file's factors follow from.

    A file keeps the factors alone. Those of Meta's models differ in the factor of the slowest pair,
    so it is tried with what the models have in common.

    Args:
        factors: (head_dim / 2,) as in the file.
        config: the model's, as its settings say.

    Returns:
        None where the factors are others, or come on top of another scaling.
    """
    if config.positions != "rotary" or config.rotary_scaling is not None:
        return None
    if factors.shape != (config.head_dim // 2,):
        return None
    slowest = float(str(np.float32(factors[-1])))  # the shortest decimal number that is this one
    if not 1 < slowest < math.inf:
        return None
    scaling = RotaryScaling(method="llama3", factor=slowest, **_LLAMA3)
    expected = llama3_factors(dataclasses.replace(config, rotary_scaling=scaling))
    # Converters compute in single precision.
    return scaling if expected is not None and np.allclose(factors, expected, 1e-5, 0) else None


def require_rope(config: GPTConfig, what: str) -> None:
    """Check that a model's scaling can be read back from a file.

    Raises:
        ValueError: it is "dynamic", which these files have not, or a "llama3" with other bounds than
            Meta's or without a pair that is slow enough to be divided by the whole factor.
    """
    if config.rotary_scaling is not None and config.rotary_scaling.method == "dynamic":
        raise ValueError(
            f"{what} has no method='dynamic' of rotary_scaling, so this model cannot be kept in that "
            f"format. Received: rotary_scaling={config.rotary_scaling.to_dict()}"
        )
    factors = llama3_factors(config)
    if factors is None:
        return
    plain = dataclasses.replace(config, rotary_scaling=None)
    if llama3_of_factors(factors, plain) != config.rotary_scaling:
        assert config.rotary_scaling is not None
        raise ValueError(
            f"{what} has method='llama3' of rotary_scaling only with {_LLAMA3} and a slowest "
            "frequency that is divided by the whole factor, so this model cannot be kept in that "
            f"format. Received: rotary_scaling={config.rotary_scaling.to_dict()}, "
            f"rotary_base={config.rotary_base}"
        )


def write_rope(writer: Any, scaling: RotaryScaling | None) -> None:
    """Put a scaling's settings into a file that is being written, by a `gguf.GGUFWriter`."""
    import gguf

    if scaling is None or scaling.method == "llama3":  # whose tensor says it all
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.method))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.method == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling.original_context_length)
        writer.add_rope_scaling_yarn_beta_fast(scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.beta_slow)
        if scaling.attention_factor is not None:
            usual = RotaryScaling(**{**scaling.to_dict(), "attention_factor": None}).multiplier
            writer.add_rope_scaling_attn_factors(scaling.attention_factor / usual)
