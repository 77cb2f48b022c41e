"""The arguments of speculative decoding: checked, and turned into the way of decoding asked for."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from keras_gpt.generation.decode import Chosen, decode
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row
from keras_gpt.generation.sampling_options import check_int
from keras_gpt.generation.speculative import (
    MOST_DRAFT_TOKENS,
    USUAL_DRAFT_TOKENS,
    decode_speculatively,
)
from keras_gpt.generation.steps import decode_steps


def decode_as_asked(
    model: Decoder,
    rows: Sequence[Row],
    ended: AbstractSet[int] = frozenset(),
    num_logprobs: int | None = None,
    draft_model: Decoder | None = None,
    prompt_lookup: int | None = None,
    num_draft_tokens: int | None = None,
    runs_ahead: bool = False,
) -> Iterator[dict[int, Chosen]]:
    """Decode rows: together, or one after the other with guessed tokens where that is asked for.

    Args:
        model: gives the logits.
        rows: what to go on with.
        ended: as for `decode`.
        num_logprobs: as for `decode`.
        draft_model: guesses tokens; see `GPT.generate`.
        prompt_lookup: how many last tokens are looked up instead.
        num_draft_tokens: how many tokens are guessed at a time.
        runs_ahead: as for `decode`.

    Returns:
        At each step the chosen tokens of rows, as `decode` yields.

    Raises:
        TypeError: `draft_model` is no model that can decode.
        ValueError: an argument is out of range, or the draft model does not suit the model.
    """
    if draft_model is None and prompt_lookup is None:
        if num_draft_tokens is not None:
            raise ValueError(
                "num_draft_tokens must come with draft_model or prompt_lookup. Received: "
                f"num_draft_tokens={num_draft_tokens!r}"
            )
        return decode(model, rows, ended, num_logprobs, runs_ahead)
    if prompt_lookup is not None:
        if draft_model is not None:
            raise ValueError(
                "give draft_model or prompt_lookup, not both. Received: "
                f"draft_model of type {type(draft_model).__name__}, prompt_lookup={prompt_lookup!r}"
            )
        check_int("prompt_lookup", prompt_lookup, 1, model.config.context_length)
    if rows[0].attention_sinks is not None:
        raise ValueError(
            "attention_sinks does not go with draft_model or prompt_lookup, whose guesses are read "
            f"into one context. Received: attention_sinks={rows[0].attention_sinks}"
        )
    if num_draft_tokens is None:
        num_draft_tokens = USUAL_DRAFT_TOKENS
    check_int("num_draft_tokens", num_draft_tokens, 1, MOST_DRAFT_TOKENS)
    if draft_model is not None:
        _check_draft(model, draft_model, rows)
    if num_logprobs is not None or any(row.is_controlled for row in rows):
        raise ValueError(
            "draft_model and prompt_lookup go with temperature, top_k, top_p, min_p and typical_p, "
            "and not with logprobs, a constraint, penalties, biases, bans, forced tokens, n-grams or "
            f"min_new_tokens. Received: logprobs={num_logprobs}, {rows[0].options}"
        )
    return _one_by_one(model, rows, ended, draft_model, prompt_lookup, num_draft_tokens)


def _one_by_one(
    model: Decoder,
    rows: Sequence[Row],
    ended: AbstractSet[int],
    draft: Decoder | None,
    lookup: int | None,
    num_draft_tokens: int,
) -> Iterator[dict[int, Chosen]]:
    for index, row in enumerate(rows):
        for chosen in decode_speculatively(
            model, row, draft=draft, lookup=lookup, num_draft_tokens=num_draft_tokens
        ):
            yield {index: chosen}
            if index in ended:
                break


def _check_draft(model: Decoder, draft: Any, rows: Sequence[Row]) -> None:
    if not (hasattr(draft, "prefill") and hasattr(draft, "step") and hasattr(draft, "config")):
        raise TypeError(
            "draft_model must be a GPT. Received: draft_model of type " + type(draft).__name__
        )
    known, draft_known = decode_steps(model).known, decode_steps(draft).known
    if known != draft_known:
        raise ValueError(
            "draft_model must have the model's vocabulary. Received: draft_model with "
            f"{draft_known} tokens, the model has {known}"
        )
    _check_same_tokens(model, draft)
    context = draft.config.context_length
    for row in rows:
        needed = len(row.prompt) + row.max_new_tokens
        if needed > context:
            raise ValueError(
                "draft_model must have a context for the prompt and the new tokens: ask for fewer "
                f"with max_new_tokens, or take another one. Received: draft_model with "
                f"context_length={context}, a prompt of {len(row.prompt)} tokens and "
                f"{row.max_new_tokens} new"
            )


def _check_same_tokens(model: Decoder, draft: Decoder) -> None:
    ours, theirs = model.tokenizer, draft.tokenizer
    if ours is None or theirs is None or ours == theirs:
        return
    for token in range(ours.vocab_size):
        if ours.id_to_token(token) != theirs.id_to_token(token):
            raise ValueError(
                "draft_model must have the model's vocabulary. Received: draft_model with "
                f"{theirs.id_to_token(token)!r} as token {token}, which is "
                f"{ours.id_to_token(token)!r} in the model"
            )
