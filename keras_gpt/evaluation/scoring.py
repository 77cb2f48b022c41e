"""log P(continuation | context) for thousands of requests."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_gpt.generation.packing import Request
from keras_gpt.generation.token_scores import score_tokens

if TYPE_CHECKING:
    from keras_gpt.models import GPT
    from keras_gpt.tokenizers import Tokenizer


class Score(NamedTuple):
    """What came out of a request.

    Args:
        log_probability: of the whole continuation, in nats.
        is_greedy: whether each of its tokens is the most probable one.
        num_tokens: tokens of the continuation.
        num_cut: tokens of the context that did not fit the model's and were left out.
    """

    log_probability: float
    is_greedy: bool
    num_tokens: int
    num_cut: int


def encode_pair(
    tokenizer: "Tokenizer", context: str, continuation: str, start: int | None = None
) -> Request:
    """Encode a continuation as it follows its context.

    Spaces at the end of the context go to the continuation, both are encoded as one text, and the
    ids are cut where the context's own end: what lm-eval does.

    Args:
        tokenizer: the model's.
        context: what is given.
        continuation: what is scored.
        start: the id that stands for an empty context; None is the end of text, which stands before
            every document.

    Raises:
        ValueError: nothing is left to score, or the context is empty and nothing stands for it.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if bare:
        given = tokenizer.encode(bare)
    else:
        start = tokenizer.end_of_text_id if start is None else start
        if start is None:
            raise ValueError(
                "context must not be empty: this tokenizer has no end of text to stand for it. "
                f"Received: context={context!r}"
            )
        given = [start]
    whole = tokenizer.encode(bare + continuation)
    scored = whole[len(given) :] if bare else whole
    if not scored:
        raise ValueError(
            "continuation must hold at least one token. Received: "
            f"continuation={continuation!r:.80}"
        )
    return Request(given, scored)


def score_requests(
    gpt: "GPT",
    requests: Sequence[Request],
    advance: Callable[[int], None] = lambda requests: None,
) -> list[Score]:
    """Score requests, each distinct context read once.

    A model with `bidirectional_prefix` reads contexts both ways.

    Args:
        gpt: the model.
        requests: in any order; a context that does not fit loses its beginning.
        advance: is called with the number of requests that have been read.

    Returns:
        One score a request, in their order.

    Raises:
        ValueError: a continuation is empty, or longer than the model's context, or a
            log-probability is not a number.
    """
    fitting = [
        _fit(gpt.config.context_length, index, request) for index, request in enumerate(requests)
    ]
    scores = []
    for whole, request, tokens in zip(
        requests, fitting, score_tokens(gpt, fitting, advance), strict=True
    ):
        total = float(tokens.log_probabilities.sum(dtype="float64"))
        if np.isnan(total):
            raise ValueError(
                "the model's log-probabilities must be numbers: check its weights. Received: nan"
            )
        num_cut = len(whole.context) - len(request.context)
        is_greedy = bool(tokens.greedy.all())
        scores.append(Score(total, is_greedy, len(request.continuation), num_cut))
    return scores


def _fit(context_length: int, index: int, request: Request) -> Request:
    """Check a request, and cut what the model's context cannot hold off the beginning."""
    context, continuation = request
    if not continuation or not context:
        raise ValueError(
            f"requests[{index}] must have a context and a continuation of at least one token. "
            f"Received: {len(context)} and {len(continuation)} tokens"
        )
    if len(continuation) > context_length:
        raise ValueError(
            f"requests[{index}] must have a continuation of at most {context_length} tokens, the "
            f"model's context. Received: {len(continuation)} tokens"
        )
    # The last token of all is not read.
    cut = max(0, len(context) + len(continuation) - 1 - context_length)
    return Request(context[cut:], continuation)
