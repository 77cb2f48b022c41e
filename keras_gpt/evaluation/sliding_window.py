"""Perplexity of a text that is longer than the context, with a window that slides over it."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from keras_gpt.evaluation.scoring import score_requests
from keras_gpt.generation.packing import Request
from keras_gpt.generation.strides import check_stride, windows

if TYPE_CHECKING:
    from keras_gpt.models import GPT

_USUAL_WINDOW = 1024


class Perplexity(NamedTuple):
    """What `perplexity` gives.

    Args:
        perplexity: exp of the mean loss per token.
        loss: mean of -log P per token, in nats.
        bits_per_byte: the whole loss in bits over the bytes of the text: tokenizers do not change it.
        num_tokens: tokens that were scored.
        num_bytes: bytes of the text, in UTF-8.
        window: tokens that the model reads at once.
        stride: tokens that the window moves by.
    """

    perplexity: float
    loss: float
    bits_per_byte: float
    num_tokens: int
    num_bytes: int
    window: int
    stride: int


def perplexity(
    gpt: "GPT",
    texts: str | Iterable[str],
    window: int | None = None,
    stride: int | None = None,
    start: Callable[[int], Callable[[int], None]] = lambda total: lambda rows: None,
) -> Perplexity:
    """Measure how well a model predicts text.

    Every token is scored exactly once. Those of a text's first window follow the end of text (a
    model without one does not score the first token); each later token has at least
    window - stride tokens before it.

    Args:
        gpt: a model with a tokenizer.
        texts: a text, or several that do not see each other.
        window: tokens that the model reads at once; by default its context, at most 1024.
        stride: tokens that the window moves by; by default half a window. A smaller one gives more
            context and costs more; as many as the window gives disjoint pieces.
        start: as for `evaluate`.

    Raises:
        ValueError: the model has no tokenizer, an argument is out of range, or there is no text.

    Example:
        >>> perplexity(gpt, open("wiki.test.raw").read(), stride=512).perplexity
    """
    tokenizer, context = gpt.tokenizer, gpt.config.context_length
    if tokenizer is None:
        raise ValueError("gpt must have a tokenizer to be evaluated on text. Received: None")
    window = min(context, _USUAL_WINDOW) if window is None else window
    if not 2 <= window <= context:
        raise ValueError(
            f"window must be from 2 to the model's context_length={context}. Received: "
            f"window={window}"
        )
    stride = max(1, window // 2) if stride is None else stride
    check_stride(stride, "window", window)
    requests: list[Request] = []
    num_bytes = 0
    end = tokenizer.end_of_text_id
    for text in [texts] if isinstance(texts, str) else texts:
        ids = tokenizer.encode(text)
        num_bytes += len(text.encode("utf-8"))
        requests += windows(ids if end is None else [end, *ids], window, stride)
    if not requests:
        raise ValueError("texts must hold at least two tokens to score one. Received: fewer")
    scores = score_requests(gpt, requests, start(len(requests)))
    total = -sum(score.log_probability for score in scores)
    count = sum(score.num_tokens for score in scores)
    loss = total / count
    return Perplexity(
        math.exp(min(loss, 700.0)),
        loss,
        total / math.log(2) / num_bytes,
        count,
        num_bytes,
        window,
        stride,
    )
