"""Prompts that are too long for the context: what is cut out of them, and how much that is."""

from typing import NamedTuple

WAYS = ("left", "right", "middle")


class Dropped(NamedTuple):
    """The part that was cut out of a prompt."""

    start: int = 0  # its first token's place in the whole prompt
    tokens: int = 0  # how many it has


NOTHING = Dropped()


class FittedPrompt(NamedTuple):
    """A prompt that fits the context."""

    ids: list[int]
    dropped: Dropped


def check_truncate(truncate: object) -> None:
    """Refuse what is no way to cut a prompt."""
    if truncate is not None and truncate not in WAYS:
        raise ValueError(
            f"truncate must be None, 'left', 'right' or 'middle'. Received: truncate={truncate!r:.80}"
        )


def count_dropped(length: int, max_new_tokens: int, context_length: int) -> int:
    """Count the tokens that must go from a prompt of `length`, so that the new ones find room."""
    return max(0, length + max_new_tokens - context_length)


def fit_prompt(
    ids: list[int], name: str, context_length: int, max_new_tokens: int, truncate: str | None
) -> FittedPrompt:
    """Make a prompt fit the context together with its new tokens.

    Args:
        ids: the prompt.
        name: what to call it in a message.
        context_length: the model's.
        max_new_tokens: how many tokens are to follow.
        truncate: what goes: "left", its beginning; "right", its end; "middle", so that as much is
            left of its beginning as of its end (or one token less); None, nothing.

    Raises:
        ValueError: it does not fit and nothing may go, or the new tokens alone fill the context.

    Example:
        >>> fit_prompt([1, 2, 3, 4, 5], "prompt", 4, 1, "middle")
        FittedPrompt(ids=[1, 4, 5], dropped=Dropped(start=1, tokens=2))
    """
    dropped = count_dropped(len(ids), max_new_tokens, context_length)
    if not dropped:
        return FittedPrompt(ids, NOTHING)
    kept = len(ids) - dropped
    if truncate is None or kept < 1:
        raise ValueError(
            f"{name} and the new tokens must fit the context of {context_length} tokens: shorten the "
            "prompt, ask for fewer new tokens, or choose what to leave out of the prompt with "
            "truncate='left', 'right' or 'middle'. "
            f"Received: a prompt of {len(ids)} tokens and {max_new_tokens} new"
        )
    head = {"left": 0, "right": kept, "middle": kept // 2}[truncate]
    return FittedPrompt([*ids[:head], *ids[head + dropped :]], Dropped(head, dropped))
