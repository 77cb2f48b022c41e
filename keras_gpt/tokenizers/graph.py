"""The tokenizer as TensorFlow graph operations, for use inside a SavedModel."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_gpt.tokenizers.byte_alphabet import byte_characters
from keras_gpt.tokenizers.graph_merge import MergeTable, table
from keras_gpt.tokenizers.graph_split import BREAK_CODE_POINT, class_ranges, word_starts
from keras_gpt.tokenizers.graph_words import WordTable

if TYPE_CHECKING:
    from keras_gpt.tokenizers.tokenizer import Tokenizer

_REPLACEMENT = 0xFFFD


class GraphTokenizer(tf.Module):
    """A `Tokenizer` made of core TensorFlow operations; get one from `Tokenizer.graph()`.

    It gives the ids that the tokenizer gives, needs no other library, and goes into a SavedModel
    with whatever holds it. It runs on the CPU and is not for XLA, which has no strings.

    Args:
        tokenizer: the tokenizer to rebuild.

    Raises:
        ValueError: there are no such operations for it: GPT-1's level and NFC need tables of
            letters that TensorFlow does not have, and added tokens that are not special would
            have to be searched for in every text.

    Example:
        >>> graph = tokenizer.graph()
        >>> graph.tokenize(tf.constant(["Hello world"]))
        <tf.RaggedTensor [[15496, 995]]>
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        super().__init__(name="tokenizer")
        _check_possible(tokenizer)
        self._level = tokenizer.level
        self._split = tokenizer.split
        self._vocab_size = tokenizer.vocab_size
        special = set(tokenizer.special_tokens.values())
        everything = range(self._vocab_size)
        # init_scope: the tables must outlive a function that is being traced right now.
        with tf.init_scope(), tf.device("CPU:0"):
            token_bytes = np.array([tokenizer.token_bytes(i) for i in everything], object)
            self._bytes = table(token_bytes, "token_bytes")
            self._is_special = table(np.array([i in special for i in everything]), "is_special")
            if self._level == "character":
                known = sorted(
                    (tokenizer.token_bytes(i).decode(), i) for i in set(everything) - special
                )
                self._characters = table(
                    np.array([ord(c) for c, _ in known], np.int32), "characters"
                )
                self._character_ids = table(np.array([i for _, i in known], np.int32), "ids")
                return
            starts, codes = class_ranges(self._split)
            self._range_starts = table(starts, "range_starts")
            self._range_codes = table(codes, "range_codes")
            byte_ids = [_byte_id(tokenizer, character) for character in byte_characters()]
            self._byte_ids = table(np.array(byte_ids, np.int32), "byte_ids")
            self._lacks_bytes = -1 in byte_ids
            pairs = [
                [tokenizer.token_to_id(token) for token in (left, right, left + right)]
                for left, right in tokenizer.merges
            ]
            self._merges = MergeTable(np.array(pairs, np.int64), self._vocab_size)
            unmerged = _unmerged_tokens(tokenizer) if tokenizer.ignore_merges else {}
            self._words = WordTable(unmerged) if unmerged else None

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def tokenize(self, strings: Any) -> Any:
        """Turn strings into token ids.

        Special tokens in the text are text like any other, as in `Tokenizer.encode`.

        Args:
            strings: (batch,) string, UTF-8. Invalid bytes count as U+FFFD, one for each longest
                broken sequence, as in `bytes.decode("utf-8", "replace")`.

        Returns:
            A RaggedTensor (batch, None) int32; the row of an empty string is empty.

        Raises:
            tf.errors.InvalidArgumentError: a character tokenizer does not know a character.
        """
        with tf.device("CPU:0"):
            strings = _valid(strings)
            code_points = tf.strings.unicode_decode(strings, "UTF-8")  # (batch, None)
            if self._level == "character":
                return code_points.with_flat_values(self._find_characters(code_points.flat_values))
            rows = tf.shape(strings, tf.int64)[0]
            breaks = tf.fill([rows, 1], BREAK_CODE_POINT)
            points = tf.concat([code_points, breaks], axis=1)
            row = points.value_rowids()
            points = points.flat_values  # (n,) with a break after each row
            starts = word_starts(points, self._range_starts, self._range_codes, self._split)

            sizes = _utf8_sizes(points)
            first_bytes = tf.cumsum(sizes, exclusive=True)
            real = tf.where(starts & (sizes > 0))[:, 0]
            joined = tf.strings.reduce_join(strings)
            raw = tf.io.decode_raw(joined, tf.uint8)  # (bytes,)
            first = tf.scatter_nd(
                tf.gather(first_bytes, real)[:, tf.newaxis],
                tf.ones_like(real, tf.bool),
                tf.shape(raw),
            )
            tokens = self._merged(tf.gather(self._byte_ids, tf.cast(raw, tf.int32)), first)
            if self._words is not None:
                tokens = self._words.apply(tokens, first, joined)
            kept = tf.where(tokens >= 0)[:, 0]
            token_rows = tf.gather(tf.repeat(row, sizes), kept)
            return tf.RaggedTensor.from_value_rowids(
                tf.gather(tokens, kept), token_rows, rows, validate=False
            )

    def _merged(self, ids: Any, first: Any) -> Any:
        """Merge bytes into tokens, where a byte without a token (-1) is as if it were not there.

        Args:
            ids: (bytes,) int32.
            first: (bytes,) bool, whether the byte is the first of a word.

        Returns:
            (bytes,) int32: the ids of the tokens, each where its first byte was; -1 elsewhere.
        """
        if not self._lacks_bytes:
            return self._merges.apply(ids, first)
        there = tf.where(ids >= 0)
        word = tf.gather_nd(tf.cumsum(tf.cast(first, tf.int32)), there)
        first = tf.not_equal(word, tf.concat([[0], word[:-1]], axis=0))
        tokens = self._merges.apply(tf.gather_nd(ids, there), first)
        return tf.tensor_scatter_nd_update(tf.fill(tf.shape(ids), -1), there, tokens)

    @tf.function(autograph=False, reduce_retracing=True)
    def detokenize(self, ids: Any, lengths: Any = None, skip_special: bool = False) -> Any:
        """Turn token ids into strings.

        Args:
            ids: a RaggedTensor (batch, None), or a Tensor (batch, n), of int32 or int64.
            lengths: (batch,) integers, for a Tensor only: how many ids of each row count. What
                follows them may be anything.
            skip_special: whether to leave special tokens out.

        Returns:
            (batch,) string, valid UTF-8: other bytes have become U+FFFD, as in `decode`.

        Raises:
            tf.errors.InvalidArgumentError: an id is not in the vocabulary.
        """
        with tf.device("CPU:0"):
            if not isinstance(ids, tf.RaggedTensor):
                ids = tf.RaggedTensor.from_tensor(ids, lengths=lengths)
            values, rows = ids.flat_values, ids.value_rowids()
            inside = (values >= 0) & (values < self._vocab_size)
            check = tf.debugging.Assert(
                tf.reduce_all(inside),
                [f"ids must lie in 0..{self._vocab_size - 1}. Received:", values[~inside]],
            )
            with tf.control_dependencies([check]):
                values = tf.identity(values)
            if skip_special:
                ordinary = tf.where(~tf.gather(self._is_special, values))[:, 0]
                values, rows = tf.gather(values, ordinary), tf.gather(rows, ordinary)
            pieces = tf.gather(self._bytes, values)
            return _valid(tf.strings.unsorted_segment_join(pieces, rows, ids.nrows()))

    def token_bytes(self, ids: Any) -> Any:
        """Give the bytes of each token, "" for special ones.  (batch,) -> (batch,) string"""
        with tf.device("CPU:0"):
            return tf.where(tf.gather(self._is_special, ids), "", tf.gather(self._bytes, ids))

    def valid_text(self, strings: Any) -> Any:
        """Make bytes UTF-8, as `detokenize` does.  (batch,) -> (batch,)"""
        return _valid(strings)

    def _find_characters(self, code_points: Any) -> Any:
        """Look the ids of characters up.  (n,) -> (n,)"""
        last = tf.size(self._characters) - 1
        entry = tf.minimum(tf.searchsorted(self._characters, code_points), last)
        known = tf.equal(tf.gather(self._characters, entry), code_points)
        check = tf.debugging.Assert(
            tf.reduce_all(known),
            [
                "the text has a character that the character tokenizer was not trained on. "
                "Received: code points",
                code_points[~known],
            ],
        )
        with tf.control_dependencies([check]):
            return tf.gather(self._character_ids, entry)


def _check_possible(tokenizer: "Tokenizer") -> None:
    reasons = {
        'level="gpt1"': tokenizer.level == "gpt1",
        "nfc=True": tokenizer.nfc,
        f"added_tokens={list(tokenizer.added_tokens)}": bool(tokenizer.added_tokens),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ValueError(
            "a tokenizer as TensorFlow operations must be byte-level or character-level, without "
            "NFC and without added tokens that are not special; encode outside of the graph. "
            f"Received: a tokenizer with {', '.join(found)}"
        )


def _byte_id(tokenizer: "Tokenizer", character: str) -> int:
    """Find the id of a byte, or -1."""
    token_id = tokenizer.token_to_id(character)
    return -1 if token_id is None or character in tokenizer.special_tokens else token_id


def _unmerged_tokens(tokenizer: "Tokenizer") -> dict[bytes, int]:
    """Find the tokens that the merges do not make of their bytes, and their ids."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models

    special = tokenizer.special_tokens.values()
    ids = [one for one in range(tokenizer.vocab_size) if one not in special]
    tokens = {tokenizer.id_to_token(one): one for one in ids}
    merging = Library(models.BPE(vocab=tokens, merges=tokenizer.merges))
    made = merging.encode_batch_fast(list(tokens))
    return {
        tokenizer.token_bytes(one): one
        for one, encoding in zip(ids, made, strict=True)
        if encoding.ids != [one]
    }


def _valid(strings: Any) -> Any:
    """Replace what is no UTF-8."""
    return tf.strings.unicode_transcode(
        strings, "UTF-8", "UTF-8", errors="replace", replacement_char=_REPLACEMENT
    )


def _utf8_sizes(code_points: Any) -> Any:
    """Count the bytes of each code point in UTF-8; a break has none."""
    return tf.add_n(
        [tf.cast(code_points >= least, tf.int32) for least in (0, 0x80, 0x800, 0x10000)]
    )
