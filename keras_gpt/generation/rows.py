"""Sequences to go on with, and their settings as tensors."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gpt.generation.constraints import Constraint
from keras_gpt.generation.random import prompt_seeds
from keras_gpt.generation.sampling import Sampling
from keras_gpt.generation.sampling_options import SamplingOptions
from keras_gpt.generation.truncation import NOTHING, Dropped


@dataclasses.dataclass(frozen=True)
class Row:
    """One sequence to go on with."""

    prompt: Sequence[int]
    max_new_tokens: int
    options: SamplingOptions
    sequence: int = 0  # which of several answers to the same prompt
    stop_token_ids: tuple[int, ...] = ()
    constraint: Constraint | None = None
    attention_sinks: int | None = None  # where the row may go on beyond the context
    dropped: Dropped = NOTHING  # what `truncate` cut out of the prompt

    @property
    def is_controlled(self) -> bool:
        """Say whether something changes the logits besides temperature and cut-offs."""
        return self.constraint is not None or self.options.is_controlled


def padded_prompts(rows: Sequence[Row], time: int) -> np.ndarray:
    """Give the rows' prompts as (rows, time) int32, padded with 0."""
    prompts = np.zeros((len(rows), time), "int32")
    for index, row in enumerate(rows):
        prompts[index, : len(row.prompt)] = row.prompt
    return prompts


def sampling_of(rows: Sequence[Row]) -> Sampling:
    """Give the rows' settings, and mix each prompt into its seed."""
    lengths = [len(row.prompt) for row in rows]
    options = [row.options for row in rows]
    seeds = prompt_seeds(
        tensor([each.seed for each in options], "int32"),
        tensor(padded_prompts(rows, max(lengths)), "int32"),
        tensor(lengths, "int32"),
    )
    return Sampling(
        temperature=tensor([each.temperature for each in options], "float32"),
        top_k=tensor([min(each.top_k or 0, 2**31 - 1) for each in options], "int32"),
        top_p=tensor([1.0 if each.top_p is None else each.top_p for each in options], "float32"),
        min_p=tensor([each.min_p or 0.0 for each in options], "float32"),
        typical_p=tensor(
            [1.0 if each.typical_p is None else each.typical_p for each in options], "float32"
        ),
        seed=seeds,
        sequence=tensor([row.sequence for row in rows], "int32"),
    )


def taken(parts: Any, rows: Any) -> Any:
    """Give these rows, (count,) int32, of every tensor in a structure."""
    return keras.tree.map_structure(lambda part: ops.take(part, rows, axis=0), parts)


def place(mine: Any, others: Any, at: Any) -> Any:
    """Write the one row of every tensor in a structure over row `at`, int32, of those in another."""

    def put(part: Any, row: Any) -> Any:
        return ops.slice_update(part, [at, *[0] * (len(part.shape) - 1)], ops.cast(row, part.dtype))

    return keras.tree.map_structure(put, mine, others)


def tensor(values: object, dtype: str) -> Any:
    """Give values as a tensor of the backend."""
    return ops.convert_to_tensor(np.asarray(values, dtype=dtype))
