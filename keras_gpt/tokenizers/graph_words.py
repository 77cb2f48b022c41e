"""Whole words that have an id of their own, as TensorFlow operations.

With `ignore_merges` a word that is in the vocabulary gets its id even where merges would not make
it. Only these words need a table: for all others the merges give the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_gpt.tokenizers.graph_merge import table

_BUCKETS = (1 << 63) - 1


class WordTable(tf.Module):
    """Words and their ids, for use inside TensorFlow's graph.

    Args:
        ids: the bytes of a word -> its id; at least one.
    """

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        super().__init__(name="words")
        words = np.array(list(ids), object)
        # Core TensorFlow cannot search strings, so it searches hashes and compares what it finds.
        # Of two words with the same hash, one in 2**63 pairs, the first would never be found.
        hashes = _hashes(words).numpy()
        order = np.argsort(hashes)
        if len(np.unique(hashes)) < len(hashes):
            raise ValueError("two words have the same hash, which makes this table impossible")
        self._hashes = table(hashes[order], "word_hashes")
        self._words = table(words[order], "words")
        self._ids = table(np.array(list(ids.values()), np.int32)[order], "word_ids")

    def apply(self, tokens: Any, first: Any, joined: Any) -> Any:
        """Put the words of the table in the place of what merges made of them.

        Args:
            tokens: (bytes,) int32, the ids of tokens at their first bytes, -1 elsewhere.
            first: (bytes,) bool, whether the byte is the first of a word.
            joined: scalar string, the bytes of all words.

        Returns:
            (bytes,) int32: the new tokens.
        """
        word = tf.cumsum(tf.cast(first, tf.int32)) - 1
        count = tf.reduce_sum(word[-1:] + 1)
        words = tf.strings.unsorted_segment_join(tf.strings.bytes_split(joined), word, count)
        hashes = _hashes(words)
        entry = tf.minimum(tf.searchsorted(self._hashes, hashes), tf.size(self._hashes) - 1)
        known = tf.equal(tf.gather(self._words, entry), words)
        ids = tf.where(known, tf.gather(self._ids, entry), -1)
        id_here = tf.gather(ids, word)
        return tf.where(id_here >= 0, tf.where(first, id_here, -1), tokens)


def _hashes(words: Any) -> Any:
    return tf.strings.to_hash_bucket_fast(words, _BUCKETS)
