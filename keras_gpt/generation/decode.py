"""The decode loop: prompts in, one token a row and step out."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from keras import ops

from keras_gpt.generation.cache import (
    RECENT_SLOTS,
    batch_bucket,
    empty_recent,
    grow_cache,
    length_bucket,
)
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.random import prompt_seeds
from keras_gpt.generation.sampling import Sampling
from keras_gpt.generation.steps import decode_steps


@dataclasses.dataclass(frozen=True)
class Row:
    """One sequence to go on with."""

    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float
    top_k: int  # 0 keeps all
    top_p: float
    seed: int
    sequence: int  # which of several answers to the same prompt


def decode(
    model: Decoder, rows: Sequence[Row], stop_token_ids: Sequence[int]
) -> Iterator[list[int | None]]:
    """Choose token after token for every row until each has stopped.

    Args:
        model: gives the logits.
        rows: what to go on with; each fits the context together with its new tokens.
        stop_token_ids: a row ends when one of these is chosen; it is not given out.

    Yields:
        At each step one token for each row, or None for a row that has ended.
    """
    steps = decode_steps(model)
    context = model.config.context_length
    # Rows beyond the real ones copy the first; nobody looks at what comes of them.
    padded = [*rows, *[rows[0]] * (batch_bucket(len(rows)) - len(rows))]
    lengths = np.array([len(row.prompt) for row in padded], "int32")
    time = length_bucket(int(lengths.max()), context)
    prompts = np.zeros((len(padded), time), "int32")
    for index, row in enumerate(padded):
        prompts[index, : lengths[index]] = row.prompt
    sampling = Sampling(
        temperature=_tensor([row.temperature for row in padded], "float32"),
        top_k=_tensor([row.top_k for row in padded], "int32"),
        top_p=_tensor([row.top_p for row in padded], "float32"),
        seed=_tensor([row.seed for row in padded], "int32"),
        sequence=_tensor([row.sequence for row in padded], "int32"),
    )
    token_ids, prompt_lengths = _tensor(prompts, "int32"), _tensor(lengths, "int32")
    sampling = sampling._replace(seed=prompt_seeds(sampling.seed, token_ids, prompt_lengths))
    limits = np.array([row.max_new_tokens for row in rows])
    live = limits > 0
    if not live.any():
        return
    tokens, past = steps.first(token_ids, prompt_lengths, sampling)
    recent, step, slot = empty_recent(past), 0, 0
    while True:
        chosen = ops.convert_to_numpy(tokens)[: len(rows)]
        live &= ~np.isin(chosen, stop_token_ids)
        if not live.any():
            return
        yield [int(token) if is_live else None for token, is_live in zip(chosen, live, strict=True)]
        step += 1
        live &= step < limits
        if not live.any():
            return
        if slot == RECENT_SLOTS:
            folded = lengths + slot
            needed = length_bucket(min(int(folded.max()), context), context)
            if needed > ops.shape(past[0].keys)[2]:
                past = grow_cache(past, needed)
            past = steps.fold(past, recent, _tensor(lengths, "int32"))
            lengths, slot = folded, 0
        tokens, recent = steps.next(
            tokens,
            _tensor(step, "int32"),
            sampling,
            _tensor(lengths, "int32"),
            _tensor(slot, "int32"),
            past,
            recent,
        )
        slot += 1


def _tensor(values: object, dtype: str) -> object:
    return ops.convert_to_tensor(np.asarray(values, dtype=dtype))
