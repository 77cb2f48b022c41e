"""Which requests make a server compile all that later ones would have it compile."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_gpt.export.graph_settings import default_settings
from keras_gpt.export.warmup_records import PredictRequest
from keras_gpt.generation.cache import RECENT_SLOTS, length_bucket, length_buckets

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

# What texts of a given length are made of: in the first that gives the length.
_UNITS = (" a", "a", "1 ", ".\n")


def gpt_requests(
    tokenizer: "Tokenizer | None",
    context: int,
    batch_sizes: Sequence[int],
    max_new_tokens: int | None,
) -> Iterator[PredictRequest]:
    """Give the requests for a GPT's signatures.

    Every input stands in each, once for each row: with batching on, a server takes no others.

    Args:
        tokenizer: the model's; None where it takes ids.
        context: its context length.
        batch_sizes: the numbers of rows.
        max_new_tokens: the most new tokens of an answer; None is whatever fits the context.
    """
    most_new = context if max_new_tokens is None else max_new_tokens
    end = None if tokenizer is None else tokenizer.end_of_text_id
    has_text = tokenizer is not None
    for rows in batch_sizes:

        def prompt(length: int, rows: int = rows) -> Any:
            return _prompts(tokenizer, length, rows)

        def generate(length: int, rows: int = rows, **settings: Any) -> PredictRequest:
            defaults = default_settings(settings["max_new_tokens"], has_text)
            inputs = {name: np.repeat(each.numpy(), rows, 0) for name, each in defaults.items()}
            for name, value in settings.items():
                inputs[name] = np.full_like(inputs[name], value)
            return PredictRequest(
                "generate", {"prompt": _prompts(tokenizer, length, rows), **inputs}
            )

        # No tokens are forbidden and no log-probabilities asked for here, and so it is in another
        # program that the token is chosen.
        if context > 1:
            yield generate(1, max_new_tokens=1)
        for length, new in _covering(context, most_new):
            # Without `min_new_tokens` an answer might end before it has run all programs.
            yield generate(length, max_new_tokens=new, min_new_tokens=new, logprobs=0)
        for length in length_buckets(context):
            # Of a text alone without an end of text before it the first token is not scored.
            whole = prompt(length + (end is None))
            yield PredictRequest("score", {"text": whole, "given": _nothing(has_text, rows)})
        for length in length_buckets(context):
            yield PredictRequest(
                "embed",
                {
                    "text": prompt(length),
                    "pooling": np.full([rows], "mean", object),
                    "normalize": np.full([rows], True),
                },
            )


def classifier_requests(
    tokenizer: "Tokenizer | None", context: int, batch_sizes: Sequence[int]
) -> Iterator[PredictRequest]:
    """Give the requests for a classifier; its two signatures run the same programs.

    Args:
        tokenizer: the model's.
        context: its context length.
        batch_sizes: the numbers of rows.
    """
    for rows in batch_sizes:
        for length in length_buckets(context):
            yield PredictRequest("classify_text", {"text": _prompts(tokenizer, length, rows)})


def _covering(context: int, most_new: int) -> list[tuple[int, int]]:
    """Give lengths of prompts, and new tokens, that together run all programs of decoding."""
    # After so many tokens an answer has been folded into the cache, and gone on.
    longest = min(RECENT_SLOTS + 2, most_new)
    runs = {}
    for length in range(1, context):
        new = min(longest, context - length)
        runs[length, new] = _programs(length, new, context)
    left = set().union(*runs.values())
    chosen = []
    while left:
        # The longest of those that are as good: a text that turns out shorter is still in its bucket.
        best = max(runs, key=lambda run: (len(runs[run] & left), run))
        chosen.append(best)
        left -= runs[best]
    return chosen


def _programs(length: int, new: int, context: int) -> set[tuple[str, int]]:
    """Give the programs that an answer runs: what they do, and the length of the cache."""
    past = length_bucket(length, context)
    programs = {("first", past)}
    if new > 1:
        programs.add(("next", past))
    if new > RECENT_SLOTS + 1:
        past = max(past, length_bucket(min(length + RECENT_SLOTS, context), context))
        programs |= {("fold", past), ("next", past)}
    return programs


def _prompts(tokenizer: "Tokenizer | None", length: int, rows: int) -> Any:
    """Give equal prompts of so many tokens."""
    if tokenizer is None:
        return np.zeros([rows, length], "int32")
    return np.full([rows], _text(tokenizer, length), object)


def _nothing(has_text: bool, rows: int) -> Any:
    return np.full([rows], "", object) if has_text else np.full([rows, 1], -1, "int32")


def _text(tokenizer: "Tokenizer", length: int) -> str:
    """Give a text of so many tokens, or the longest shorter one that is found."""
    best, most = _UNITS[1], 0
    for unit in _UNITS:
        few, many = 0, 4 * length + 1  # times the unit: short enough, and perhaps not
        while many - few > 1:
            middle = (few + many) // 2
            if len(tokenizer.encode(unit * middle)) <= length:
                few = middle
            else:
                many = middle
        count = len(tokenizer.encode(unit * few)) if few else 0
        if count > most:
            best, most = unit * few, count
        if most == length:
            break
    return best
