"""Log-probabilities of sequences by the chain rule."""

import itertools
from typing import Any

import numpy as np

from keras_gpt.generation.options import read_prompts
from keras_gpt.generation.packing import Request
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.strides import check_stride, windows
from keras_gpt.generation.token_scores import score_tokens


def score(
    model: Decoder,
    targets: Any,
    given: Any = None,
    per_token: bool = False,
    stride: int | None = None,
) -> Any:
    """Score sequences; `GPT.score` documents the arguments."""
    wanted = read_prompts(model, targets, "targets")
    end = None if model.tokenizer is None else model.tokenizer.end_of_text_id
    if given is None:
        # A document follows an end of text in training: that is what the first token is given.
        sources = [[] if end is None else [end] for _ in wanted.ids]
    else:
        read = read_prompts(model, given, "given")
        if len(read.ids) != len(wanted.ids) or read.is_one != wanted.is_one:
            raise ValueError(
                "given must hold one source for each target. Received: "
                f"{len(read.ids)} sources, {len(wanted.ids)} targets"
            )
        sources = read.ids
    rows = [source + target for source, target in zip(sources, wanted.ids, strict=True)]
    first_scored = [max(1, len(source)) for source in sources]
    context = model.config.context_length
    if stride is not None:
        check_stride(stride, "context_length", context)
    requests, ends = list[Request](), list[int]()
    # Without a source the first token has nothing before it, and no probability is made up for it.
    for index, (row, first) in enumerate(zip(rows, first_scored, strict=True)):
        if len(row) - 1 <= context:
            requests.append(Request(row[:first], row[first:]))
        elif stride is None or model.config.bidirectional_prefix:
            raise ValueError(
                f"targets[{index}], with what it is given, must be at most {context + 1} tokens "
                "long, or a model without bidirectional_prefix must be given a stride. Received: "
                f"{len(row)} tokens, stride={stride}"
            )
        else:
            requests += windows(row, context, stride, first)
        ends.append(len(requests))
    scores = [each.log_probabilities for each in score_tokens(model, requests)]
    parts = [scores[start:end] for start, end in itertools.pairwise([0, *ends])]
    results = [np.concatenate(part) for part in parts]
    answers = results if per_token else [float(np.sum(each, dtype="float64")) for each in results]
    return answers[0] if wanted.is_one else answers
