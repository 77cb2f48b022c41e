"""The arguments of `generate`: checked, and turned into rows of ids."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.generation.constraints import Constraint, start_constraint
from keras_gpt.generation.endless import check_sinks
from keras_gpt.generation.processors import bias_rows
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import SamplingOptions, check_int, is_id
from keras_gpt.generation.steps import TOP_LOGPROBS
from keras_gpt.generation.truncation import check_truncate, fit_prompt


class Prompts(NamedTuple):
    """Prompts as rows of ids, and the form they came in."""

    ids: list[list[int]]
    are_strings: bool
    is_one: bool


def read_prompts(model: Decoder, prompt: Any, name: str = "prompt") -> Prompts:
    """Take a string, ids, or a list of either.

    Raises:
        TypeError: it is none of these.
        ValueError: it is empty, holds ids outside the vocabulary, or is text and the model has no
            tokenizer.
    """
    many: list[Any]
    if isinstance(prompt, str):
        one, many = True, [prompt]
    elif isinstance(prompt, np.ndarray) or hasattr(prompt, "__array__"):
        array = np.asarray(prompt)
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"{name} as an array must be ids, (time,) or (batch, time) of integers. Received: "
                f"{name}.shape={array.shape}, {name}.dtype={array.dtype}"
            )
        one, many = array.ndim == 1, [array.tolist()] if array.ndim == 1 else array.tolist()
    elif isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        one = bool(prompt) and all(is_id(item) for item in prompt)
        many = [list(prompt)] if one else list(prompt)
    else:
        raise TypeError(
            f"{name} must be a string, a list of ids, or a list of either. Received: "
            f"{name} of type {type(prompt).__name__}"
        )
    if not many:
        raise ValueError(f"{name} must hold at least one prompt. Received: {name}={prompt!r}")
    are_strings = all(isinstance(item, str) for item in many)
    if are_strings and model.tokenizer is None:
        raise ValueError(
            f"{name} is text, and this model has no tokenizer: give ids, or make the model with "
            f"tokenizer=... Received: {name}={prompt!r}"
        )
    rows = []
    for index, item in enumerate(many):
        place = name if one else f"{name}[{index}]"
        if isinstance(item, str) and are_strings:
            ids = model.tokenizer.encode(item) if model.tokenizer else []
        else:
            ids = _ids(item, place, model.config.vocab_size)
        if not ids:
            raise ValueError(
                f"{place} must hold at least one token; to start from nothing, give the id of the "
                f"end of text. Received: {place}={item!r}"
            )
        rows.append(ids)
    return Prompts(rows, are_strings, one)


def read_rows(
    model: Decoder,
    prompts: Prompts,
    *,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    num_return_sequences: int = 1,
    stop_token_ids: Sequence[int] | None = None,
    truncate: str | None = None,
    constraint: Constraint | None = None,
    attention_sinks: int | None = None,
    **settings: Any,
) -> list[Row]:
    """Check the settings and make one row for each sequence to return; see `generate`."""
    if max_length is not None and max_new_tokens is not None:
        raise ValueError(
            "give max_length (prompt and new tokens) or max_new_tokens, not both. Received: "
            f"max_length={max_length}, max_new_tokens={max_new_tokens}"
        )
    for name, limit in (("max_length", max_length), ("max_new_tokens", max_new_tokens)):
        if limit is not None:
            check_int(name, limit, 1, None)
    options = SamplingOptions(**settings)
    known = model.config.vocab_size if model.tokenizer is None else model.tokenizer.vocab_size
    bias_rows(options.logit_bias or {}, options.banned_token_ids, known)
    _ids(options.forced_token_ids, "forced_token_ids", known)
    check_int("num_return_sequences", num_return_sequences, 1, None)
    stops = tuple(read_stop_token_ids(model, stop_token_ids))
    _check_constraint(model, constraint, stops, options.forced_token_ids)
    check_truncate(truncate)

    context = model.config.context_length
    if attention_sinks is not None:
        ngrams = options.no_repeat_ngram_size
        others = {"constraint": constraint, "no_repeat_ngram_size": ngrams}
        check_sinks(model, attention_sinks, others)
        if max_length is None and max_new_tokens is None:
            raise ValueError(
                "attention_sinks must come with max_new_tokens or max_length, since the context no "
                f"longer ends an answer. Received: attention_sinks={attention_sinks}"
            )
    elif max_length is not None and max_length > context:
        raise ValueError(
            f"max_length must be at most the model's context_length={context}. Received: "
            f"max_length={max_length}"
        )
    rows = []
    for index, ids in enumerate(prompts.ids):
        # With sinks the prompt alone must fit; each new token makes room for itself.
        new = 1 if attention_sinks is not None else max_new_tokens or 1
        ids, dropped = fit_prompt(ids, f"prompt {index}", context, new, truncate)
        if max_length is not None and len(ids) >= max_length:
            raise ValueError(
                "max_length counts the prompt too and must be above its length. Received: "
                f"max_length={max_length}, prompt {index} of {len(ids)} tokens"
            )
        room = (max_length or context) - len(ids)
        for sequence in range(num_return_sequences):
            rows.append(
                Row(
                    prompt=ids,
                    max_new_tokens=room if max_new_tokens is None else max_new_tokens,
                    options=options,
                    sequence=sequence,
                    stop_token_ids=stops,
                    constraint=constraint,
                    attention_sinks=attention_sinks,
                    dropped=dropped,
                )
            )
    return rows


def usual_new_tokens(context_length: int, usual: int = 64) -> int:
    """Give how many tokens to go on for where nobody said: a short context keeps room for a prompt."""
    return min(usual, max(1, context_length // 2))


def read_stop_token_ids(model: Decoder, stop_token_ids: Sequence[int] | None) -> list[int]:
    """Give the ids that end a row: those given, else the model's own, else the end of text."""
    if stop_token_ids is None:
        if model.generation_settings.stop_token_ids is not None:
            return list(model.generation_settings.stop_token_ids)
        end = None if model.tokenizer is None else model.tokenizer.end_of_text_id
        return [] if end is None else [end]
    return _ids(stop_token_ids, "stop_token_ids", model.config.vocab_size)


def read_stop(stop: str | Sequence[str] | None, are_strings: bool) -> list[str]:
    """Give the strings that end an answer."""
    strings = [stop] if isinstance(stop, str) else list(stop or [])
    if not all(isinstance(each, str) and each for each in strings):
        raise ValueError(f"stop must be strings that are not empty. Received: stop={stop!r}")
    if strings and not are_strings:
        raise ValueError(
            f"stop needs prompts that are text; for ids, take stop_token_ids. Received: stop={stop!r}"
        )
    return strings


def read_num_logprobs(logprobs: int | None, details: bool) -> int | None:
    """Give how many alternatives are wanted for each token, or None."""
    if logprobs is not None:
        check_int("logprobs", logprobs, 0, TOP_LOGPROBS)
        if not details:
            raise ValueError(
                "logprobs are given in an Answer: pass details=True too. Received: "
                f"logprobs={logprobs}, details={details}"
            )
    return logprobs


def _check_constraint(
    model: Decoder, constraint: Constraint | None, stops: Sequence[int], forced: Sequence[int]
) -> None:
    """Refuse a constraint that this model cannot follow, or that what is forced breaks."""
    if constraint is None:
        return
    if not isinstance(constraint, Constraint):
        raise TypeError(
            "constraint must be a keras_gpt.generation.Constraint. Received: constraint of type "
            f"{type(constraint).__name__}"
        )
    if model.tokenizer is None:
        raise ValueError(
            "constraint is about text, and this model has no tokenizer: make it with "
            f"tokenizer=... Received: constraint={constraint.definition!r:.200}"
        )
    state = start_constraint(model.tokenizer, constraint, stops)
    if state.ended:
        raise ValueError(
            "constraint must be able to begin with a token that is no stop token. Received: "
            f"constraint={constraint.definition!r:.200}, stop_token_ids={list(stops)}"
        )
    for place, token in enumerate(forced):
        if state.ended or not state.allowed()[token]:
            raise ValueError(
                "forced_token_ids must follow the constraint. Received: "
                f"forced_token_ids[{place}]={token} where it is not allowed"
            )
        state.accept(token)


def _ids(item: Any, place: str, vocab_size: int) -> list[int]:
    if isinstance(item, str | bytes) or not hasattr(item, "__iter__"):
        raise TypeError(
            f"{place} must be a list of ids (and prompts must be of one kind). Received: "
            f"{place} of type {type(item).__name__}"
        )
    ids = list(item)
    for token in ids:
        if not is_id(token) or not 0 <= token < vocab_size:
            raise ValueError(
                f"{place} must hold ids from 0 to {vocab_size - 1}. Received: {place} with {token!r}"
            )
    return [int(token) for token in ids]
