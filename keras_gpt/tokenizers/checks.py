"""Checks of what callers pass in."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

Level = Literal["byte", "character", "gpt1"]


def check_text(text: str, name: str = "text") -> None:
    """Check that a value is a string that UTF-8 can hold.

    Args:
        text: the value.
        name: how to name it in the message.

    Raises:
        TypeError: it is not a string.
        ValueError: it holds a lone surrogate.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"{name} must be a str. Received: {name}={type(text).__name__} {text!r:.80}"
        )
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be valid Unicode, and there is a lone surrogate "
            f"U+{ord(text[error.start]):04X} at position {error.start}. "
            f"Received: {name}={text[max(error.start - 20, 0) : error.start + 20]!a}"
        ) from None


def checked_id(token_id: int, vocab_size: int) -> int:
    """Check one token id.

    Args:
        token_id: an integer of Python or NumPy.
        vocab_size: the number of ids that exist.

    Returns:
        The id as a Python integer.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is out of range.
    """
    try:
        index = operator.index(token_id)
    except TypeError:
        raise TypeError(
            f"a token id must be an integer. Received: token_id={token_id!r:.80}"
        ) from None
    if not 0 <= index < vocab_size:
        raise ValueError(f"a token id must lie in 0..{vocab_size - 1}. Received: token_id={index}")
    return index


def checked_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> list[int]:
    """Check token ids and turn them into a list.

    Args:
        ids: a list or a one-dimensional array of integers.
        vocab_size: the number of ids that exist.

    Returns:
        The ids as Python integers.

    Raises:
        TypeError: they are not integers.
        ValueError: they have more or less than one dimension, or one is out of range.
    """
    array: Any = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(
            "ids must be one-dimensional (use decode_batch for several rows). "
            f"Received: ids of shape {array.shape}"
        )
    if array.size == 0:
        return []
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers. Received: ids of dtype {array.dtype}")
    wrong = (array < 0) | (array >= vocab_size)
    if wrong.any():
        position = int(wrong.argmax())
        raise ValueError(
            f"ids must lie in 0..{vocab_size - 1}. Received: ids[{position}]={array[position]}"
        )
    return array.tolist()


def checked_level(level: Level) -> Level:
    """Check the level of a tokenizer.

    Args:
        level: "byte", "character" or "gpt1".

    Returns:
        The level.

    Raises:
        ValueError: it is something else.
    """
    if level not in ("byte", "character", "gpt1"):
        raise ValueError(f'level must be "byte", "character" or "gpt1". Received: level={level!r}')
    return level


def checked_special_tokens(
    special_tokens: Iterable[str], name: str = "special_tokens", others: Iterable[str] = ()
) -> list[str]:
    """Check special tokens.

    Args:
        special_tokens: different strings with something in them.
        name: how to name them in the message.
        others: tokens that they must differ from.

    Returns:
        The special tokens.

    Raises:
        TypeError: there is one string instead of several, or something is not a string.
        ValueError: one is empty, or is there twice, or is one of the others.
    """
    if isinstance(special_tokens, str):
        raise TypeError(
            f"{name} must be several strings, not one. Received: {name}={special_tokens!r}"
        )
    special = list(special_tokens)
    for index, token in enumerate(special):
        check_text(token, f"{name}[{index}]")
        if not token:
            raise ValueError(f"{name} must not be empty strings. Received: {name}={special}")
    if len(set(special)) != len(special):
        raise ValueError(f"{name} must differ. Received: {name}={special}")
    if both := sorted(set(special) & set(others)):
        raise ValueError(
            f"{name} must not be special tokens too. Received: {both} among {name} and special_tokens"
        )
    return special


def check_byte_level_only(level: Level, **options: bool) -> None:
    """Check that options which only the byte level has are not set for another level.

    Args:
        level: the tokenizer's level.
        options: the options by name.

    Raises:
        ValueError: one is set for another level.
    """
    if level != "byte" and any(options.values()):
        received = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(
            f'only level="byte" has {" and ".join(options)}. Received: level={level!r}, {received}'
        )
