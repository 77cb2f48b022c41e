"""Sequences to go on with, and their settings as tensors."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_gpt.generation.random import prompt_seeds
from keras_gpt.generation.sampling import Sampling


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


def padded_prompts(rows: Sequence[Row], time: int) -> np.ndarray:
    """Give the rows' prompts as (rows, time) int32, padded with 0."""
    prompts = np.zeros((len(rows), time), "int32")
    for index, row in enumerate(rows):
        prompts[index, : len(row.prompt)] = row.prompt
    return prompts


def sampling_of(rows: Sequence[Row]) -> Sampling:
    """Give the rows' settings, and mix each prompt into its seed."""
    lengths = [len(row.prompt) for row in rows]
    seeds = prompt_seeds(
        tensor([row.seed for row in rows], "int32"),
        tensor(padded_prompts(rows, max(lengths)), "int32"),
        tensor(lengths, "int32"),
    )
    return Sampling(
        temperature=tensor([row.temperature for row in rows], "float32"),
        top_k=tensor([row.top_k for row in rows], "int32"),
        top_p=tensor([row.top_p for row in rows], "float32"),
        seed=seeds,
        sequence=tensor([row.sequence for row in rows], "int32"),
    )


def tensor(values: object, dtype: str) -> Any:
    """Give values as a tensor of the backend."""
    return ops.convert_to_tensor(np.asarray(values, dtype=dtype))
