"""How Hugging Face's configs say that rotary frequencies are slowed: in our terms, both ways."""

from collections.abc import Mapping
from typing import Any

from keras_gpt.checkpoints.config_checks import naming, require_values
from keras_gpt.rotary_scaling import RotaryScaling

# Their name -> ours, of what a method has beside its name and factor.
_LENGTH = {"original_max_position_embeddings": "original_context_length"}
_FIELDS: dict[str, dict[str, str]] = {
    "yarn": {
        **_LENGTH,
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
    "llama3": {
        **_LENGTH,
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
}


def read_rope(content: Mapping[str, Any], field: str, what: str) -> RotaryScaling | None:
    """Read the scaling that a config asks for.

    Args:
        content: of `config.json`.
        field: the part of it that counts, "rope_scaling" or "rope_parameters".
        what: what to call the file in messages.

    Raises:
        ValueError: it is a kind, or has a setting, that our layers have not; the message names it.
    """
    rope: Mapping[str, Any] = content.get(field) or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    named = {f"{field}.{name}": value for name, value in rope.items()}
    require_values(named, {f"{field}.partial_rotary_factor": 1.0}, what)
    if kind == "default":
        return None
    if kind == "yarn":
        # `mscale` is DeepSeek's other multiplier, `truncate` off gpt-oss's blend between whole pairs.
        others = {"mscale": None, "mscale_all_dim": None, "truncate": True}
        require_values(named, {f"{field}.{name}": value for name, value in others.items()}, what)
    names = _FIELDS.get(kind, {}) if isinstance(kind, str) else {}
    if "original_max_position_embeddings" in names:
        rope = {"original_max_position_embeddings": content.get("max_position_embeddings"), **rope}
        # Versions of the library disagree on which one counts.
        name = "original_max_position_embeddings"
        require_values(content, {name: rope[name]}, what)
    fields: dict[str, Any] = {ours: rope.get(theirs) for theirs, ours in names.items()}
    fields |= {"method": kind, "factor": rope.get("factor")}
    with naming(f"{what}: {field}.rope_type={kind!r:.40}"):
        return RotaryScaling(**fields)


def write_rope(scaling: RotaryScaling | None) -> dict[str, Any] | None:
    """Give the content of `rope_scaling`; None where nothing is scaled."""
    if scaling is None:
        return None
    fields = {
        theirs: getattr(scaling, ours) for theirs, ours in _FIELDS.get(scaling.method, {}).items()
    }
    return {
        "rope_type": scaling.method,
        "factor": scaling.factor,
        **{name: value for name, value in fields.items() if value is not None},
    }
