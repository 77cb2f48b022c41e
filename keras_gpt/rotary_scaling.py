"""Rotary positions beyond the length that a model was trained on: how its frequencies are slowed."""

import dataclasses
import math
import numbers
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

# What each method is made from beside the factor; `attention_factor` alone may stay open.
_FIELDS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "dynamic": (),
    "yarn": ("original_context_length", "beta_fast", "beta_slow", "attention_factor"),
    "llama3": ("original_context_length", "low_freq_factor", "high_freq_factor"),
}
_YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How rotary frequencies are slowed, so that positions beyond the trained ones turn by known angles.

    "linear" divides every frequency by `factor`. "yarn" and "llama3" divide the slow ones, leave
    the fast ones and blend those between. "dynamic" (NTK) leaves all of them within the model's
    context, which is the trained one, and slows them beyond it, where our models do not read: its
    base changes with the number of tokens so far, so keys that are cached turned would not fit those
    that follow. It is kept because the files of a checkpoint say it.

    Args:
        method: "linear", "dynamic", "yarn" or "llama3".
        factor: how many times longer the context becomes, 1 or more.
        original_context_length: tokens that the model was trained on before ("yarn", "llama3").
        beta_fast: a frequency with more turns over the original context is left ("yarn"; 32).
        beta_slow: one with fewer turns than this is divided by `factor` ("yarn"; 1).
        attention_factor: multiplies cosines and sines, so its square the scores ("yarn"). None is
            0.1 ln(factor) + 1.
        low_freq_factor: a frequency with fewer turns than this over the original context is divided
            by `factor` ("llama3").
        high_freq_factor: one with more turns is left ("llama3").

    Raises:
        ValueError: a field is missing, out of range or another method's; the message names it.

    Example:
        >>> RotaryScaling(method="linear", factor=4).frequencies(4, 10000.0)
        array([0.25  , 0.0025])

    Sources: linear, arXiv:2306.15595; YaRN, arXiv:2309.00071, section 3; dynamic, its appendix B.2
    ("dynamic scaling") with the base of its equation 11, as in transformers; llama3, "The Llama 3 Herd
    of Models", arXiv:2407.21783, and the code that Meta published with Llama 3.1.
    """

    method: str
    factor: float
    original_context_length: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.method, str) or self.method not in _FIELDS:
            raise ValueError(
                f"method must be one of {tuple(_FIELDS)}. Received: method={self.method!r:.80}"
            )
        if self.method == "yarn":
            for name, value in _YARN_DEFAULTS.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        for field in dataclasses.fields(self)[2:]:
            self._require_of_method(field.name)
        object.__setattr__(self, "factor", _positive("factor", self.factor))
        for name in _FIELDS[self.method]:
            if name != "original_context_length" and getattr(self, name) is not None:
                object.__setattr__(self, name, _positive(name, getattr(self, name)))
        if self.factor < 1:
            raise ValueError(f"factor must be 1 or more. Received: factor={self.factor}")
        if self.original_context_length is not None:
            length = self.original_context_length
            is_integer = isinstance(length, numbers.Integral) and not isinstance(length, bool)
            if not is_integer or not 1 <= length < 2**31:  # positions are int32
                raise ValueError(
                    "original_context_length must be a positive integer below 2^31. Received: "
                    f"original_context_length={length!r:.80}"
                )
            object.__setattr__(self, "original_context_length", int(length))
        for above, below in (("beta_fast", "beta_slow"), ("high_freq_factor", "low_freq_factor")):
            high, low = getattr(self, above), getattr(self, below)
            if high is not None and not high > low:
                raise ValueError(
                    f"{above} must be above {below}. Received: {above}={high}, {below}={low}"
                )

    def _require_of_method(self, name: str) -> None:
        """Check that a field is there if, and only if, the method has it."""
        value = getattr(self, name)
        if name not in _FIELDS[self.method]:
            if value is not None:
                raise ValueError(
                    f"{name} must be None, since method={self.method!r} has no such field. "
                    f"Received: {name}={value!r:.80}"
                )
        elif value is None and name != "attention_factor":
            raise ValueError(
                f"{name} must be given for method={self.method!r}. Received: {name}=None"
            )

    @classmethod
    def of(cls, scaling: "RotaryScaling | Mapping[str, Any] | None") -> "RotaryScaling | None":
        """Take a scaling, or the dictionary that JSON holds in its place.

        Raises:
            ValueError: it is neither, or a field is unknown, missing or out of range.
        """
        if scaling is None or isinstance(scaling, cls):
            return scaling
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(scaling, Mapping) or not {"method", "factor"} <= set(scaling) <= known:
            raise ValueError(
                "rotary_scaling must be None, a RotaryScaling, or a dictionary of its fields with "
                f"method and factor. Received: rotary_scaling={scaling!r:.200}"
            )
        return cls(**scaling)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields that the method has, in JSON's types."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @property
    def multiplier(self) -> float:
        """What cosines and sines are multiplied by; 1 but for YaRN."""
        if self.method != "yarn":
            return 1.0
        if self.attention_factor is None:
            return 0.1 * math.log(self.factor) + 1.0
        return self.attention_factor

    def frequencies(self, head_dim: int, base: float) -> np.ndarray:
        """Compute what each pair of a head turns by from one position to the next.

        Args:
            head_dim: width of a head, even.
            base: base of the frequencies that are slowed.

        Returns:
            (head_dim / 2,) float64, radians.

        Raises:
            ValueError: YaRN's blend has no place on these frequencies.
        """
        plain = rotary_frequencies(head_dim, base)
        if self.method == "dynamic":
            return plain
        if self.method == "linear":
            return plain / self.factor
        kept = (
            self._yarn_kept(head_dim, base) if self.method == "yarn" else self._llama3_kept(plain)
        )
        return plain / self.factor * (1 - kept) + plain * kept

    def _given(self, *names: str) -> list[Any]:
        """Give fields that the method has, so that none is None."""
        return [getattr(self, name) for name in names]

    def require_fit(self, head_dim: int, base: float) -> None:
        """Refuse frequencies on which the blend has no place, without computing them.

        Raises:
            ValueError: YaRN's blend has none; the message names what does not fit.
        """
        if self.method == "yarn":
            self._yarn_ends(head_dim, base)

    def _yarn_kept(self, head_dim: int, base: float) -> np.ndarray:
        """Give how much of each frequency is left, 1 for the fast ones and 0 for the slow ones."""
        first, last = self._yarn_ends(head_dim, base)
        width = max(last - first, 0.001)  # a step where both ends meet
        return 1 - np.clip((np.arange(head_dim // 2) - first) / width, 0, 1)

    def _yarn_ends(self, head_dim: int, base: float) -> tuple[int, int]:
        """Give the pairs between which frequencies are blended."""
        length, fast, slow = self._given("original_context_length", "beta_fast", "beta_slow")
        if not base > 1:
            raise ValueError(
                f"rotary_base must be above 1 for method='yarn'. Received: rotary_base={base}"
            )

        def pair(turns: float) -> float:
            """Which pair turns so often over the original context: equation 17, solved for it."""
            return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

        first = max(math.floor(pair(fast)), 0)
        last = min(math.ceil(pair(slow)), head_dim - 1)
        if first > last:
            raise ValueError(
                "original_context_length must be a length over which some pair of a head turns "
                f"between beta_slow and beta_fast times. Received: original_context_length={length}, "
                f"beta_fast={fast}, beta_slow={slow}, rotary_base={base}, head_dim={head_dim}"
            )
        return first, last

    def _llama3_kept(self, plain: np.ndarray) -> np.ndarray:
        """Give the same for Llama 3.1's blend, which is linear in the frequency."""
        length, low, high = self._given(
            "original_context_length", "low_freq_factor", "high_freq_factor"
        )
        turns = length * plain / (2 * math.pi)  # over the original context
        return np.clip((turns - low) / (high - low), 0, 1)


def rotary_frequencies(head_dim: int, base: float) -> np.ndarray:
    """Compute unscaled rotary frequencies.

    Args:
        head_dim: width of a head, even.
        base: base of the frequencies.

    Returns:
        (head_dim / 2,) float64, radians a position.

    Source: "RoFormer", arXiv:2104.09864, equation 15.
    """
    return base ** (-np.arange(0, head_dim, 2, dtype="float64") / head_dim)


def _positive(name: str, value: Any) -> float:
    """Take a finite number above 0."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    # nan is not below anything.
    if not good or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be a finite number above 0. Received: {name}={value!r:.80}")
    return float(value)
