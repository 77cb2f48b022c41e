"""What the signatures share: what a signature says of an input, and prompts as rows of ids."""

from typing import Any

import tensorflow as tf

from keras_gpt.export.graph_settings import require


def spec(dtype: Any, name: str, *shape: int | None) -> tf.TensorSpec:
    """Give what a signature says of an input: a row for each of the batch, each of `shape`.

    No input is without the batch: with batching on, TensorFlow Serving puts the inputs of several
    requests behind one another, refuses a scalar, and refuses a request whose inputs have not all
    the same number of rows. It fills in the defaults, which have one row, before it counts, so a
    request of one row may leave inputs out; one of several rows then gives each input for each row.
    """
    return tf.TensorSpec([None, *shape], dtype, name=name)


class Rows:
    """Turns what a request gives into rows of ids.

    Args:
        tokenizer: in the graph; None for a model that takes ids.
        vocab_size: the model's.
        max_batch: the most rows of a request, or of those that a server puts together; None is any.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, max_batch: int | None) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_batch = max_batch

    def spec(self, name: str) -> tf.TensorSpec:
        """Give what the signature says of an input of texts, or of ids padded with -1."""
        return spec(tf.int32, name, None) if self._tokenizer is None else spec(tf.string, name)

    def nothing(self) -> Any:
        """Give one row without any token."""
        return tf.constant([[-1]]) if self._tokenizer is None else tf.constant([""])

    def few_enough(self, tensor: Any, name: str) -> list[Any]:
        """Make the graph raise where there are more rows than the model was exported for."""
        if self._max_batch is None:
            return []
        return [
            require(
                tf.shape(tensor)[0] <= self._max_batch,
                f"{name} must have at most {self._max_batch} rows",
            )
        ]

    def tokens(self, given: Any, name: str, least: int) -> tuple[Any, Any]:
        """Give ids (batch, longest), padded with 0, and their lengths.

        Args:
            given: the input.
            name: its name.
            least: how many tokens each row has at least.
        """
        checks = self.few_enough(given, name)
        if self._tokenizer is None:
            lengths = tf.reduce_sum(tf.cast(given >= 0, tf.int32), axis=1)
            token_ids = tf.maximum(given, 0)
            ends = tf.cast(given < 0, tf.int32)
            checks += [
                require(given < self._vocab_size, f"{name} must be ids of the vocabulary"),
                require(ends[:, 1:] >= ends[:, :-1], f"{name} must be padded at the end only"),
            ]
        else:
            with tf.control_dependencies(checks):
                ragged = self._tokenizer.tokenize(tf.identity(given))
            lengths = tf.cast(ragged.row_lengths(), tf.int32)
            token_ids = ragged.to_tensor()
        checks.append(require(lengths >= least, f"{name} must not be empty"))
        with tf.control_dependencies(checks):
            return tf.identity(token_ids), tf.identity(lengths)


def to_width(ragged: Any, width: Any) -> Any:
    """Pad (or cut) rows to a width that is known only in the graph."""
    shape = tf.stack([tf.constant(-1, tf.int64), tf.cast(width, tf.int64)])
    return tf.ensure_shape(ragged.to_tensor(shape=shape), [None, None])
