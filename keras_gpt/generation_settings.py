"""How a model is meant to be run: what its makers publish beside the weights."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """What a checkpoint says about generation, apart from the model itself.

    `generate` takes the stop ids from here; `keras-gpt chat` takes everything.

    Args:
        stop_token_ids: ids that end an answer; None is the tokenizer's end of text.
        temperature: suggested temperature, 0 or more; None suggests none.
        top_k: suggested number of tokens to draw from; None suggests none.
        top_p: suggested probability to draw from; None suggests none.
        chat_template: a Jinja template that turns messages into a prompt; None where the model
            was not made for chat.
        bos_token: the token that starts a text, which a chat template may name.
        eos_token: the token that ends an answer, which a chat template may name.
        pad_token: the token that fills a batch; only kept, for those who ask for it.

    Raises:
        ValueError: a field is out of range; the message names it.

    Example:
        >>> GenerationSettings(stop_token_ids=(2,), temperature=0.2).to_dict()
        {'stop_token_ids': [2], 'temperature': 0.2}
    """

    stop_token_ids: tuple[int, ...] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        ids = self.stop_token_ids
        if ids is not None:
            if not isinstance(ids, list | tuple) or not all(
                _is_int(one) and one >= 0 for one in ids
            ):
                raise ValueError(
                    "stop_token_ids must be a tuple of ids, or None. Received: "
                    f"stop_token_ids={ids!r}"
                )
            object.__setattr__(self, "stop_token_ids", tuple(ids))
        if self.temperature is not None and not _number("temperature", self.temperature) >= 0:
            raise ValueError(
                f"temperature must be 0 or more. Received: temperature={self.temperature}"
            )
        if self.top_p is not None and not 0 < _number("top_p", self.top_p) <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1. Received: top_p={self.top_p}")
        if self.top_k is not None and not (_is_int(self.top_k) and self.top_k >= 1):
            raise ValueError(
                f"top_k must be an integer, at least 1. Received: top_k={self.top_k!r}"
            )
        for name in ("chat_template", "bos_token", "eos_token", "pad_token"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be a string or None. Received: {name}={value!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """Give the fields that say something, in JSON's types."""
        fields = {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }
        if self.stop_token_ids is not None:
            fields["stop_token_ids"] = list(self.stop_token_ids)
        return fields

    @classmethod
    def of(cls, settings: "GenerationSettings | Mapping[str, Any] | None") -> "GenerationSettings":
        """Take settings, what `to_dict` gave, or None for settings that say nothing.

        Raises:
            ValueError: it is something else, or a field is unknown or out of range.
        """
        if isinstance(settings, GenerationSettings):
            return settings
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(
                "settings must be a dictionary of GenerationSettings' fields. Received: "
                f"settings={settings!r:.80}"
            )
        fields = dict(settings or {})
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"fields must be those of GenerationSettings. Received: unknown {unknown}"
            )
        return cls(**fields)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    # nan is not below anything.
    if not good or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} must be a finite number. Received: {name}={value!r:.80}")
    return value
