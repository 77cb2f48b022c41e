"""How the tokens of an answer are chosen: one object, checked when it is made."""

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SEED_LIMIT = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The settings of one answer; `GPT.generate` documents them.

    None and the defaults change nothing.

    Raises:
        ValueError: a setting is out of range; the message names it.

    Example:
        >>> SamplingOptions(temperature=0.7, top_p=0.9, seed=1).is_controlled
        False
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int = 0
    logit_bias: Mapping[int, float] | None = None
    banned_token_ids: Sequence[int] = ()
    forced_token_ids: Sequence[int] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every setting, and draw a seed where none is given."""
        if not (is_number(self.temperature) and 0.0 <= self.temperature < math.inf):
            raise ValueError(
                "temperature must be 0 (the most probable token) or a positive number. Received: "
                f"temperature={self.temperature!r}"
            )
        for name in ("top_k", "no_repeat_ngram_size"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1, None)
        check_int("min_new_tokens", self.min_new_tokens, 0, None)
        for name in ("top_p", "typical_p"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0.0 < value <= 1.0):
                raise ValueError(
                    f"{name} must be above 0 and at most 1. Received: {name}={value!r}"
                )
        if self.min_p is not None and not (is_number(self.min_p) and 0.0 <= self.min_p <= 1.0):
            raise ValueError(f"min_p must be from 0 to 1. Received: min_p={self.min_p!r}")
        penalty = self.repetition_penalty
        if not (is_number(penalty) and 0.0 < penalty < math.inf):
            raise ValueError(
                "repetition_penalty must be a positive number; 1 changes nothing. Received: "
                f"repetition_penalty={penalty!r}"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number. Received: {name}={value!r}")
        if self.logit_bias is not None and not isinstance(self.logit_bias, Mapping):
            raise ValueError(
                "logit_bias must be a dictionary from ids to numbers, or None. Received: "
                f"logit_bias={self.logit_bias!r:.80}"
            )
        for name in ("banned_token_ids", "forced_token_ids"):
            value = getattr(self, name)
            if isinstance(value, str | bytes) or not all(is_id(each) for each in value):
                raise ValueError(f"{name} must be a list of ids. Received: {name}={value!r:.80}")
        if self.seed is None:
            object.__setattr__(self, "seed", secrets.randbelow(SEED_LIMIT))
        check_int("seed", self.seed, 0, SEED_LIMIT - 1)

    @property
    def is_controlled(self) -> bool:
        """Say whether something changes the logits besides temperature and cut-offs."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.no_repeat_ngram_size
            or self.min_new_tokens
            or self.logit_bias
            or len(self.banned_token_ids)
            or len(self.forced_token_ids)
        )


def is_id(value: Any) -> bool:
    """Say whether a value is an integer, as ids are."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Say whether a value is a number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_int(name: str, value: Any, least: int, most: int | None) -> None:
    """Refuse what is no integer in a range."""
    if not is_id(value) or value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be an integer, {limits}. Received: {name}={value!r}")
