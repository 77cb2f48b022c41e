"""The arguments of beam search and contrastive search: checked, and what does not go with them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import check_int, is_number

# As n ** penalty stays a float for every context.
LARGEST_PENALTY = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """The settings of a beam search; `GPT.generate` documents them.

    A sequence's score is

        score = (log P(w1) + ... + log P(wn)) / n ** length_penalty

    where w1 ... wn are its new tokens, n counts the stop token that ends it, and neither counts the
    prompt. log P is the model's, changed by penalties, biases and bans where there are any.

    Raises:
        ValueError: a setting is out of range; the message names it.

    Example:
        >>> BeamOptions(num_beams=4).score(-6.0, 3)
        -2.0

    Source: transformers' `generate` (5.23), whose scores and `early_stopping` these are.
    """

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        """Check every setting."""
        check_int("num_beams", self.num_beams, 1, None)
        penalty = self.length_penalty
        if not (is_number(penalty) and abs(penalty) <= LARGEST_PENALTY):
            raise ValueError(
                f"length_penalty must be a number from {-LARGEST_PENALTY:.0f} to "
                f"{LARGEST_PENALTY:.0f}. Received: length_penalty={penalty!r}"
            )
        if not (isinstance(self.early_stopping, bool) or self.early_stopping == "never"):
            raise ValueError(
                "early_stopping must be True, False or 'never'. Received: "
                f"early_stopping={self.early_stopping!r}"
            )

    def score(self, log_probability: float, length: int) -> float:
        """Give the score of a sequence of `length` new tokens."""
        return float(log_probability / float(length) ** self.length_penalty)


def read_beams(
    num_beams: int, length_penalty: float, early_stopping: bool | str, num_return_sequences: int
) -> BeamOptions | None:
    """Give the settings of the beams, or None where one answer after the other is chosen."""
    options = BeamOptions(
        num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping
    )
    if num_beams == 1:
        for name in ("length_penalty", "early_stopping"):
            if getattr(options, name) != getattr(BeamOptions, name):
                raise ValueError(
                    f"{name} must come with num_beams above 1. Received: "
                    f"{name}={getattr(options, name)!r}, num_beams=1"
                )
        return None
    check_int("num_return_sequences", num_return_sequences, 1, None)
    if num_return_sequences > num_beams:
        raise ValueError(
            "num_return_sequences must be at most num_beams. Received: "
            f"num_return_sequences={num_return_sequences}, num_beams={num_beams}"
        )
    return options


def check_beams(
    options: BeamOptions, rows: Sequence[Row], num_logprobs: int | None, others: Mapping[str, Any]
) -> None:
    """Refuse what beams do not go with, or would not look at.

    Args:
        options: those of the beams.
        rows: hold the settings that drawing would look at.
        num_logprobs: as for `decode`.
        others: the other ways of decoding, by the names of their arguments.
    """
    asked = {**_drawing(rows[0]), "top_k": rows[0].options.top_k, **others}
    _refuse("num_beams", options.num_beams, {**asked, "logprobs": num_logprobs})


def check_contrastive(penalty_alpha: float, rows: Sequence[Row], others: Mapping[str, Any]) -> None:
    """Check the arguments of contrastive search, and refuse what it would not look at.

    Args:
        penalty_alpha: see `GPT.generate`.
        rows: hold the other settings.
        others: as for `check_beams`.
    """
    if not (is_number(penalty_alpha) and 0.0 <= penalty_alpha <= 1.0):
        raise ValueError(
            f"penalty_alpha must be a number from 0 to 1. Received: penalty_alpha={penalty_alpha!r}"
        )
    if rows[0].options.top_k is None:
        raise ValueError(
            "penalty_alpha must come with top_k, how many tokens it chooses from. Received: "
            f"penalty_alpha={penalty_alpha}, top_k=None"
        )
    several = max(row.sequence for row in rows) + 1
    asked = {"num_return_sequences": None if several == 1 else several, **_drawing(rows[0])}
    _refuse("penalty_alpha", penalty_alpha, {**asked, **others})


def _drawing(row: Row) -> dict[str, Any]:
    """Give what no search looks at: what draws, a constraint and sinks; None is not asked for."""
    options = row.options
    temperature = None if options.temperature == 1.0 else options.temperature
    constraint = None if row.constraint is None else row.constraint.definition
    names = ("top_p", "min_p", "typical_p")
    drawing = {name: getattr(options, name) for name in names}
    others = {"constraint": constraint, "attention_sinks": row.attention_sinks}
    return {"temperature": temperature, **drawing, **others}


def _refuse(name: str, value: Any, others: Mapping[str, Any]) -> None:
    for other, given in others.items():
        if given is not None:
            raise ValueError(
                f"{name} does not go with {other}: give one of them. Received: {name}={value!r}, "
                f"{other}={given!r:.80}"
            )
