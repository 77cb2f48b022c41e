"""Stop strings in the graph: texts that grow until they have one."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def add_text(
    text: Any, tokens: Any, live: Any, stop: Any, token_bytes: Callable[[Any], Any] | None
) -> tuple[Any, Any]:
    """Add tokens to the texts of live rows, each up to its first stop string.

    Args:
        text: (batch,) string, the answers so far, as bytes.
        tokens: (batch,) int32.
        live: (batch,) bool, the rows that get theirs.
        stop: (batch, n) string; "" is none, and where all are the texts stay as they are.
        token_bytes: gives the bytes of (batch,) ids; None for a model without text.

    Returns:
        The texts, and (batch,) bool, whether each has come to a stop string now.
    """
    if token_bytes is None:
        return text, tf.zeros_like(live)

    def added() -> tuple[Any, Any]:
        longer = tf.strings.join([text, tf.where(live, token_bytes(tokens), "")])
        place = find_stop(longer, tf.strings.length(text), stop)
        is_end = live & (place >= 0)
        size = tf.where(is_end, place, tf.strings.length(longer))
        return tf.strings.substr(longer, tf.zeros_like(size), size), is_end

    return tf.cond(tf.reduce_any(stop != ""), added, lambda: (text, tf.zeros_like(live)))


def find_stop(text: Any, before: Any, stop: Any) -> Any:
    """Find the first stop string that ends in the bytes a step has added.

    UTF-8 has no character inside another, so that bytes may be compared in place of characters.

    Args:
        text: (batch,) string, the answers so far, as bytes.
        before: (batch,) int32, how many bytes they had before the step.
        stop: (batch, n) string; "" is none.

    Returns:
        (batch,) int32, the byte where it begins; -1 where there is none.
    """
    sizes = tf.strings.length(stop)  # (batch, n)
    # A string that ends in what was added begins at most size - 1 bytes before that.
    starts = tf.maximum(before[:, None] - sizes + 1, 0)
    total = tf.strings.length(text)[:, None]
    most = tf.maximum(tf.reduce_max(total - sizes - starts) + 1, 0)
    places = starts[:, :, None] + tf.range(most)  # (batch, n, most)
    fits = (sizes[:, :, None] > 0) & (places + sizes[:, :, None] <= total[:, :, None])
    places_inside = tf.where(fits, places, 0)
    texts = tf.broadcast_to(text[:, None, None], tf.shape(places))
    lengths = tf.broadcast_to(sizes[:, :, None], tf.shape(places))
    found = tf.strings.substr(texts, places_inside, lengths) == stop[:, :, None]
    none = tf.int32.max
    first = tf.reduce_min(tf.where(fits & found, places, none), axis=[1, 2])
    return tf.where(first == none, -1, first)
