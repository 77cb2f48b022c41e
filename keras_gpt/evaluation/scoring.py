"""log P(continuation | context) for thousands of rows: batched by length, projected where it counts."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from keras import ops

from keras_gpt.generation.compiled import compiled, kept_with

if TYPE_CHECKING:
    from keras_gpt.models import GPT
    from keras_gpt.tokenizers import Tokenizer

# Tokens of a batch: enough for a matrix product to run at full rate on a CPU.
_TOKENS_AT_ONCE = 2048
# Positions whose logits exist at once.
_POSITIONS_AT_ONCE = 512
_SMALLEST_LENGTH = 32


class Request(NamedTuple):
    """A continuation to score, and what it follows."""

    context: list[int]
    continuation: list[int]


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


def length_of_batch(length: int, context_length: int) -> int:
    """Give the length that a row is padded to: 32, 48, 64, 96, 128, ... up to the context.

    Example:
        >>> length_of_batch(70, 1024)
        96
    """
    bucket = _SMALLEST_LENGTH
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return min(bucket, context_length)


def score_requests(
    gpt: "GPT",
    requests: Sequence[Request],
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Score]:
    """Score requests, the longest first.

    Each length of batch is compiled once. Logits are made for continuations only. A model with
    `bidirectional_prefix` reads contexts both ways.

    Args:
        gpt: the model.
        requests: in any order; a context that does not fit loses its beginning.
        advance: is called with the number of rows that have become ready.

    Returns:
        One score a request, in their order.

    Raises:
        ValueError: a continuation is empty, or longer than the model's context, or a
            log-probability is not a number.
    """
    functions: _Functions = kept_with(gpt, "_scoring", lambda: _functions(gpt))
    scores: list[Score | None] = [None] * len(requests)
    rows = [
        _row(gpt.config.context_length, index, request) for index, request in enumerate(requests)
    ]
    rows.sort(key=lambda row: -len(row.token_ids))
    for batch, time in _batches(rows, gpt.config.context_length):
        token_ids = np.zeros((max(1, _TOKENS_AT_ONCE // time), time), "int32")
        prefixes = np.zeros(len(token_ids), "int32")
        for line, row in enumerate(batch):
            token_ids[line, : len(row.token_ids)] = row.token_ids
            prefixes[line] = len(row.token_ids) - len(row.targets) + 1
        states = functions.states(time)(
            ops.convert_to_tensor(token_ids), ops.convert_to_tensor(prefixes)
        )
        states = ops.convert_to_numpy(states)
        # The state at position t says what token t + 1 is: a row's last states are those that count.
        wanted = [
            states[line, len(row.token_ids) - len(row.targets) : len(row.token_ids)]
            for line, row in enumerate(batch)
        ]
        targets = np.concatenate([row.targets for row in batch])
        logs, greedy = _position_scores(functions, np.concatenate(wanted), targets)
        if np.isnan(logs).any():
            raise ValueError(
                "the model's log-probabilities must be numbers: check its weights. Received: nan"
            )
        start = 0
        for row in batch:
            end = start + len(row.targets)
            scores[row.place] = Score(
                float(logs[start:end].sum(dtype="float64")),
                bool(greedy[start:end].all()),
                len(row.targets),
                row.num_cut,
            )
            start = end
        advance(len(batch))
    return [score for score in scores if score is not None]


class _Row(NamedTuple):
    place: int  # of its request
    token_ids: list[int]  # what the model reads
    targets: list[int]
    num_cut: int


def _row(context_length: int, index: int, request: Request) -> _Row:
    targets = list(request.continuation)
    if not targets or not request.context:
        raise ValueError(
            f"requests[{index}] must have a context and a continuation of at least one token. "
            f"Received: {len(request.context)} and {len(targets)} tokens"
        )
    if len(targets) > context_length:
        raise ValueError(
            f"requests[{index}] must have a continuation of at most {context_length} tokens, the "
            f"model's context. Received: {len(targets)} tokens"
        )
    token_ids = [*request.context, *targets[:-1]]
    cut = max(0, len(token_ids) - context_length)
    return _Row(index, token_ids[cut:], targets, cut)


def _batches(rows: Sequence[_Row], context_length: int) -> Iterator[tuple[list[_Row], int]]:
    batch: list[_Row] = []
    time = 0
    for row in rows:
        length = length_of_batch(len(row.token_ids), context_length)
        if batch and (length != time or len(batch) == max(1, _TOKENS_AT_ONCE // time)):
            yield batch, time
            batch = []
        time = length
        batch.append(row)
    if batch:
        yield batch, time


class _Functions(NamedTuple):
    states: Callable[[int], Callable[[Any, Any], Any]]  # by the length of a batch
    scores: Callable[[Any, Any], Any]


def _functions(gpt: "GPT") -> _Functions:
    @functools.cache
    def states(time: int) -> Callable[[Any, Any], Any]:
        # One function a shape: TensorFlow warns of one that is traced for many.
        def run(token_ids: Any, prefixes: Any) -> Any:
            inputs = {"token_ids": token_ids}
            if gpt.config.bidirectional_prefix:
                inputs["prefix_lengths"] = prefixes
            return gpt.hidden_states(inputs, training=False)

        return compiled(run, gpt)

    def scores(states: Any, targets: Any) -> tuple[Any, Any]:
        logits = ops.cast(gpt.project(states), "float32")  # (positions, vocab)
        picked = ops.take_along_axis(logits, ops.expand_dims(targets, 1), axis=1)[:, 0]
        logs = picked - ops.logsumexp(logits, axis=1)
        return logs, ops.equal(ops.cast(ops.argmax(logits, axis=1), "int32"), targets)

    return _Functions(states, compiled(scores, gpt))


def _position_scores(
    functions: _Functions, states: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give log-probability and "is the most probable" of each target.  (n, dim), (n,) -> (n,), (n,)"""
    logs, greedy = [], []
    for start in range(0, len(targets), _POSITIONS_AT_ONCE):
        piece = states[start : start + _POSITIONS_AT_ONCE]
        named = targets[start : start + _POSITIONS_AT_ONCE]
        more = _POSITIONS_AT_ONCE - len(named)
        some_logs, some_greedy = functions.scores(
            ops.convert_to_tensor(np.pad(piece, [[0, more], [0, 0]])),
            ops.convert_to_tensor(np.pad(named, [0, more]).astype("int32")),
        )
        logs.append(ops.convert_to_numpy(some_logs)[: len(named)])
        greedy.append(ops.convert_to_numpy(some_greedy)[: len(named)])
    return np.concatenate(logs), np.concatenate(greedy)
