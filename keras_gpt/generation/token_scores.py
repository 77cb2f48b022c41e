"""log P of each token of many continuations, each context read once, projected where it counts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gpt.generation.cache import batch_bucket
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.packing import Request, pack
from keras_gpt.generation.protocol import Decoder

# Positions whose logits exist at once.
_POSITIONS_AT_ONCE = 512


class TokenScores(NamedTuple):
    """What came out of a request.

    Args:
        log_probabilities: (tokens of the continuation,) float32, in nats.
        greedy: (tokens of the continuation,) bool, whether each is the most probable one.
    """

    log_probabilities: np.ndarray
    greedy: np.ndarray


def score_tokens(
    model: Decoder,
    requests: Sequence[Request],
    advance: Callable[[int], None] = lambda requests: None,
) -> list[TokenScores]:
    """Score every token of every continuation.

    Requests with equal contexts read them once. Logits are made for continuations only. A model
    with `bidirectional_prefix` reads contexts both ways.

    Args:
        model: gives the logits.
        requests: in any order; what is read of one must fit the model's context.
        advance: is called with the number of requests that have been read.

    Returns:
        One for each request, in their order.
    """
    functions: _Functions = kept_with(model, "_token_scores", lambda: _functions(model))
    targets = np.array([token for each in requests for token in each.continuation], "int32")
    logs, greedy = np.empty(len(targets), "float32"), np.empty(len(targets), "bool")
    for piece in _pieces(_states(functions, requests, advance)):
        logs[piece.tokens], greedy[piece.tokens] = _scores(
            functions, piece.states, targets[piece.tokens]
        )
    counts = [len(each.continuation) for each in requests]
    parts = [slice(end - count, end) for count, end in zip(counts, np.cumsum(counts), strict=True)]
    return [TokenScores(logs[part], greedy[part]) for part in parts]


class _Functions(NamedTuple):
    states: Callable[..., Any]
    scores: Callable[[Any, Any], Any]


def _functions(model: Decoder) -> _Functions:
    def scores(states: Any, targets: Any) -> tuple[Any, Any]:
        logits = ops.cast(model.project(states), "float32")  # (positions, vocab)
        picked = ops.take_along_axis(logits, ops.expand_dims(targets, 1), axis=1)[:, 0]
        logs = picked - ops.logsumexp(logits, axis=1)
        return logs, ops.equal(ops.cast(ops.argmax(logits, axis=1), "int32"), targets)

    return _Functions(compiled(model.packed_states, model), compiled(scores, model))


class _Piece(NamedTuple):
    """States, and which scored tokens they tell."""

    states: np.ndarray  # (count, embedding_dim)
    tokens: np.ndarray  # (count,)


def _states(
    functions: _Functions, requests: Sequence[Request], advance: Callable[[int], None]
) -> Iterator[_Piece]:
    for batch in pack(requests):
        states = functions.states(*[ops.convert_to_tensor(each) for each in batch[:4]])
        states = ops.convert_to_numpy(states)
        states = states.reshape(-1, states.shape[-1])[batch.places]
        advance(batch.num_requests)
        yield _Piece(states, batch.tokens)


def _pieces(pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """Cut and join pieces so that all but the last have the size of one projection."""
    held: _Piece | None = None
    for piece in pieces:
        if held is not None:
            piece = _Piece(*[np.concatenate(pair) for pair in zip(held, piece, strict=True)])
        held = piece
        while len(held.states) >= _POSITIONS_AT_ONCE:
            yield _Piece(*[each[:_POSITIONS_AT_ONCE] for each in held])
            held = _Piece(*[each[_POSITIONS_AT_ONCE:] for each in held])
    if held is not None and len(held.states):
        yield held


def _scores(
    functions: _Functions, states: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give log-probability and "is the most probable" of each target.  (n, dim), (n,) -> (n,), (n,)"""
    count = len(targets)
    more = batch_bucket(count) - count
    logs, greedy = functions.scores(
        ops.convert_to_tensor(np.pad(states, [[0, more], [0, 0]])),
        ops.convert_to_tensor(np.pad(targets, [0, more])),
    )
    return ops.convert_to_numpy(logs)[:count], ops.convert_to_numpy(greedy)[:count]
