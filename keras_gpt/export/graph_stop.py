"""Stop strings in the graph: where the text of an answer first has one."""

from typing import Any

import tensorflow as tf


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
