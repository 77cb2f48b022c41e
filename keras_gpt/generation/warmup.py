"""Compiling before the first request what requests will need."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from keras_gpt.generation.batch import ReadPrompts
from keras_gpt.generation.cache import (
    batch_bucket,
    empty_recent,
    grow_cache,
    length_bucket,
    length_buckets,
    shared_bucket,
    shared_buckets,
)
from keras_gpt.generation.control import controls_of, seen_of
from keras_gpt.generation.prompt_reader import first_widths, next_widths
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, sampling_of, taken, tensor
from keras_gpt.generation.sampling_options import SamplingOptions, check_int
from keras_gpt.generation.steps import GoingOn, decode_steps

# While XLA compiles one function, Python traces the next: more threads would gain nothing.
_AT_ONCE = 2

Task = TypeVar("Task")
Result = TypeVar("Result")


def warmup(
    model: Decoder,
    batch_size: int = 1,
    max_length: int | None = None,
    chunk: int | None = None,
) -> None:
    """Compile decoding for every shape; `GPT.warmup` documents the arguments."""
    context = model.config.context_length
    check_int("batch_size", batch_size, 1, None)
    longest = context if max_length is None else max_length
    check_int("max_length", longest, 1, context)
    if chunk is not None:
        check_int("chunk", chunk, 1, None)
    sizes = [1 << power for power in range(batch_bucket(batch_size).bit_length())]
    if chunk is None:
        last = length_bucket(longest, context)
        lengths = [each for each in length_buckets(context) if each <= last]
        read = _read_at_once(model, sizes, lengths)
    else:
        last = shared_bucket(longest, context)
        lengths = [each for each in shared_buckets(context) if each <= last]
        read = _read_in_chunks(model, min(chunk, context), longest, lengths)
    for size in sizes:
        _go_on(model, size, lengths, read, is_shared=chunk is not None)


def _read_at_once(model: Decoder, sizes: Sequence[int], lengths: Sequence[int]) -> ReadPrompts:
    """Compile the reading of prompts; give what a short one leaves."""

    def read(shape: tuple[int, int]) -> ReadPrompts:
        size, length = shape
        token_ids = tensor([[0] * length] * size, "int32")
        return ReadPrompts(*decode_steps(model).first(token_ids, tensor([1] * size, "int32")))

    first, *_ = _each(read, itertools.product(sizes, lengths))
    return first


def _read_in_chunks(
    model: Decoder, chunk: int, longest: int, lengths: Sequence[int]
) -> ReadPrompts:
    """Compile the reading of one prompt at a time, as `PromptReader` does it."""
    steps, one = decode_steps(model), tensor([1], "int32")
    is_whole = model.config.bidirectional_prefix
    widths = first_widths(model.config.context_length if is_whole else chunk)
    needed = [width for before, width in itertools.pairwise([0, *widths]) if before < longest]
    (logits, shortest), *_ = _each(
        lambda width: steps.first_whole(tensor([[0] * width], "int32"), one), needed
    )

    def go_on(length: int) -> None:
        past = grow_cache(shortest, length)
        steps.keep_windows(past, one)
        for width in [] if is_whole else next_widths(chunk):
            steps.extend(tensor([[0] * width], "int32"), one, one, past)

    _each(go_on, lengths)
    return ReadPrompts(logits, steps.keep_windows(grow_cache(shortest, lengths[0]), one))


def _go_on(
    model: Decoder, size: int, lengths: Sequence[int], read: ReadPrompts, is_shared: bool
) -> None:
    """Compile the steps of a batch; `is_shared` says whether rows join it."""
    steps, context = decode_steps(model), model.config.context_length
    rows = [Row([0], 1, SamplingOptions(seed=0))] * size
    zeros, ones = tensor([0] * size, "int32"), tensor([1] * size, "int32")
    sampling = sampling_of(rows)
    logits, shortest = taken(read, np.zeros(size, "int32"))
    tokens = steps.choose(logits, sampling, zeros)
    steps.logprobs(logits, tokens)
    control = controls_of(rows, steps.known), seen_of(rows, steps.known, context)
    forced = tensor([-1] * size, "int32")
    for count in {1, size}:  # without constraints, and with one
        allowed = tensor([[True] * steps.known] * count, "bool")
        steps.choose_controlled(logits, sampling, zeros, *control, allowed, forced)
    joining, at = np.zeros(1, "int32"), tensor(0, "int32")
    joins = is_shared and size > 1
    if joins:
        for each in (control, (sampling, logits)):
            steps.place(each, taken(each, joining), at)

    def go_on(length: int) -> None:
        past = steps.grow(shortest, length)
        recent = empty_recent(past)
        going_on = GoingOn(
            lengths=ones,
            slots=zeros,
            steps=ones,
            past=past,
            sampling=sampling,
            last=tensor([False] * steps.known, "bool"),
            live=tensor([True] * size, "bool"),
            most=tensor(1, "int32"),
        )
        steps.several(going_on, tokens, recent)
        steps.fold(past, recent, ones, ones)
        if joins:
            for part in (past, recent):
                steps.place_layers(part, taken(part, joining), at)

    _each(go_on, lengths)


def _each(function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """Call a function for each task, some at a time."""
    with ThreadPoolExecutor(_AT_ONCE, "keras_gpt.warmup") as threads:
        return list(threads.map(function, tasks))
