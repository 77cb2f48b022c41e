"""Checks of another format's settings, which reading and writing share."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_gpt.config import GPTConfig


@contextlib.contextmanager
def naming(what: object) -> Iterator[None]:
    """Put what a block reads, mostly a file, before the message of its ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def require_values(content: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Check settings that our layers know only one value of; a missing one has that value.

    Raises:
        ValueError: one has another value; the message names it.
    """
    for name, value in expected.items():
        if content.get(name, value) != value:
            raise ValueError(
                f"{what}: {name} must be {value!r}, the only one that is supported. Received: "
                f"{name}={content[name]!r:.80}"
            )


def require_fields(config: GPTConfig, expected: Mapping[str, Any], what: str) -> None:
    """Check the fields of our config that another format has only one value of.

    Raises:
        ValueError: one has another value; the message names it.
    """
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"{what} has only {name}={value!r}, so this model cannot be kept in that format. "
                f"Received: {name}={getattr(config, name)!r}"
            )


def require_objects(content: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    """Check settings that are objects of their own where they are there.

    Raises:
        ValueError: one is something else; the message names it.
    """
    for name in names:
        if content.get(name) is not None and not isinstance(content[name], Mapping):
            raise ValueError(
                f"{what}: {name} must be an object. Received: {name}={content[name]!r:.80}"
            )


def require_no_windows(config: GPTConfig, what: str) -> None:
    """Check that every layer attends to all that stands before; other formats have no windows."""
    if set(config.attention_windows) != {None}:
        raise ValueError(
            f"{what} has no attention windows, so this model cannot be kept in that format. "
            f"Received: attention_windows={config.attention_windows!r}"
        )


def take(content: Mapping[str, Any], name: str, *others: str) -> int:
    """Take a count that must be there, under its name or an older one.

    Raises:
        ValueError: it is not there, or is no positive integer.
    """
    for each in (name, *others):
        value = content.get(each)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{each!r} must be a positive integer. Received: {each}={value!r:.80}")
        return value
    raise ValueError(f"there must be {name!r}. Received: keys {sorted(content)}")


def choose(names: Mapping[str, str], value: Any, field: str) -> str:
    """Translate a name.

    Raises:
        ValueError: it is unknown.
    """
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{field} must be one of {sorted(names)}. Received: {field}={value!r:.80}")
    return names[value]
