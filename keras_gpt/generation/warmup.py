"""Compiling before the first request what requests will need."""

from typing import Any

from keras_gpt.generation.cache import (
    batch_bucket,
    empty_recent,
    grow_cache,
    length_bucket,
    length_buckets,
)
from keras_gpt.generation.control import controls_of, seen_of
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, sampling_of, tensor
from keras_gpt.generation.sampling_options import SamplingOptions, check_int
from keras_gpt.generation.steps import GoingOn, decode_steps


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
    lengths = [each for each in length_buckets(context) if each <= length_bucket(longest, context)]
    size = 1
    while size <= batch_bucket(batch_size):
        _warm_up(model, size, lengths, None if chunk is None else min(chunk, context))
        size *= 2


def _warm_up(model: Decoder, size: int, lengths: list[int], chunk: int | None) -> None:
    steps, context = decode_steps(model), model.config.context_length
    rows = [Row([0], 1, SamplingOptions(seed=0))] * size
    sampling = sampling_of(rows)
    zeros, ones = tensor([0] * size, "int32"), tensor([1] * size, "int32")

    def read(length: int) -> Any:
        return steps.first(tensor([[0] * length] * size, "int32"), ones)

    logits, shortest = read(lengths[0])
    tokens = steps.choose(logits, sampling, zeros)
    steps.logprobs(logits, tokens)
    steps.choose_controlled(
        logits,
        sampling,
        zeros,
        controls_of(rows, steps.known),
        seen_of(rows, steps.known, context),
        tensor([[True] * steps.known], "bool"),
        tensor([-1] * size, "int32"),
    )
    if chunk is None:
        for length in lengths[1:]:
            read(length)
    for length in lengths:
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
        # An engine reads prompts one by one, at most a chunk of one at a time, and keeps all of it.
        if chunk is not None and size == 1:
            if length <= length_bucket(chunk, context):
                _, whole = steps.first_whole(tensor([[0] * length], "int32"), ones)
            whole = grow_cache(whole, length)
            steps.keep_windows(whole, ones)
            piece = tensor([[0] * chunk], "int32")
            _, recent = steps.read(
                piece, tensor([[0]], "int32"), ones, zeros, whole, empty_recent(whole, chunk)
            )
            steps.fold(whole, recent, ones, ones)
