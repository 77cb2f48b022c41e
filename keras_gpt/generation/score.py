"""Log-probabilities of sequences by the chain rule."""

from typing import Any

import numpy as np

from keras_gpt.generation.options import read_prompts
from keras_gpt.generation.packing import Request
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.token_scores import score_tokens


def score(model: Decoder, targets: Any, given: Any = None, per_token: bool = False) -> Any:
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
    for index, row in enumerate(rows):
        if len(row) - 1 > context:
            raise ValueError(
                f"targets[{index}], with what it is given, must be at most {context + 1} tokens "
                f"long. Received: {len(row)} tokens"
            )
    # Without a source the first token has nothing before it, and no probability is made up for it.
    requests = [Request(row[:n], row[n:]) for row, n in zip(rows, first_scored, strict=True)]
    results = [each.log_probabilities for each in score_tokens(model, requests)]
    answers = results if per_token else [float(np.sum(each, dtype="float64")) for each in results]
    return answers[0] if wanted.is_one else answers
