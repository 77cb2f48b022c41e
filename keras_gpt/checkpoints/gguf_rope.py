"""How a gguf file of a Llama says that rotary frequencies are slowed: in our terms, both ways."""

from collections.abc import Callable, Mapping
from typing import Any

from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.rotary_scaling import RotaryScaling

_SCALING = "rope.scaling."


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


def require_rope(scaling: RotaryScaling | None, what: str) -> None:
    """Check that the format has a model's scaling.

    Raises:
        ValueError: it keeps "llama3" only as a factor for each frequency, not as what they follow from.
    """
    if scaling is not None and scaling.method == "llama3":
        raise ValueError(
            f"{what} has no method='llama3' of rotary_scaling, so this model cannot be kept in that "
            f"format. Received: rotary_scaling={scaling.to_dict()}"
        )


def write_rope(writer: Any, scaling: RotaryScaling | None) -> None:
    """Put a scaling into a file that is being written, by a `gguf.GGUFWriter`."""
    import gguf

    if scaling is None:
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
