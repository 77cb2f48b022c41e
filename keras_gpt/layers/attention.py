"""Causal self-attention with grouped key/value heads, rotary positions and a key/value cache."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gpt.config import GPTConfig
from keras_gpt.key_values import KeyValues, put
from keras_gpt.layers.few_rows import is_half
from keras_gpt.layers.positions import RotaryTables, rotate
from keras_gpt.layers.quantized import Dense
from keras_gpt.processor import is_on_cpu


@keras.saving.register_keras_serializable("keras_gpt")
class CausalSelfAttention(keras.layers.Layer):
    """Multi-head attention of a sequence to itself: softmax(Q Kᵀ / sqrt(head_dim)) V, then a projection.

    One matrix makes queries, keys and values (in this order along the columns). All kernels are
    two-dimensional, so that quantization, LoRA and Muon apply to them.

    Args:
        config: gives width, heads, dropout and initialization.

    Call arguments:
        x: (batch, time, embedding_dim).
        mask: (batch or 1, 1, query, key) bool, True where the query sees the key.
        rotary: angles for rotary positions, or None.
        training: whether dropout acts.

    Returns:
        (batch, time, embedding_dim).

    Example:
        >>> layer = CausalSelfAttention(GPTConfig.preset("gpt2"))
        >>> layer(keras.random.normal((1, 4, 768)), attention_mask(4)).shape
        (1, 4, 768)

    Source: "Attention Is All You Need", arXiv:1706.03762, equation 1; grouped heads,
    arXiv:2305.13245.
    """

    def __init__(self, config: GPTConfig | dict[str, Any], **kwargs: Any) -> None:
        # Keras would cast the rotary tables, whose angles half precision cannot hold.
        super().__init__(autocast=False, **kwargs)
        config = self.gpt_config = GPTConfig.of(config)
        kv_dim = config.key_value_heads * config.head_dim
        self.qkv = Dense(
            config.embedding_dim + 2 * kv_dim,
            use_bias=config.use_bias,
            kernel_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.projection = Dense(
            config.embedding_dim,
            use_bias=config.use_bias,
            kernel_initializer=residual_initializer(config),
            dtype=self.dtype_policy,
            name="projection",
        )
        self.dropout = keras.layers.Dropout(
            config.attention_dropout, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape: Any) -> None:
        """Make the two matrices."""
        self.qkv.build((None, None, self.gpt_config.embedding_dim))
        self.projection.build((None, None, self.gpt_config.embedding_dim))

    def call(
        self,
        x: Any,
        mask: Any,
        rotary: RotaryTables | None = None,
        training: bool | None = None,
    ) -> Any:
        """Attend, without a cache."""
        queries, new = self._heads(x, rotary)
        return self._attend(queries, [new], mask, training)

    def prefill(self, x: Any, mask: Any, rotary: RotaryTables | None) -> tuple[Any, KeyValues]:
        """Attend, and give the keys and values too, for a cache to keep."""
        queries, new = self._heads(x, rotary)
        return self._attend(queries, [new], mask, training=False), _to_keep(new)

    def with_weights(self, x: Any, mask: Any, rotary: RotaryTables | None) -> tuple[Any, Any]:
        """Attend, and give the weights too: (batch, heads, query, key) float32, each row's sum 1."""
        queries, new = self._heads(x, rotary)
        weights = self._weights(queries, [new], mask)
        return self._output(weights, [new], training=False), weights

    def step(
        self,
        x: Any,
        past: KeyValues,
        recent: KeyValues,
        slots: Any,
        mask: Any,
        rotary: RotaryTables | None,
    ) -> tuple[Any, KeyValues]:
        """Attend from new tokens to all that came before them, and to themselves.

        Only `recent` is written again: a step that wrote the long `past` too would copy all of it.

        Args:
            x: (batch, new, embedding_dim), usually one new token a row.
            past: keys and values of earlier tokens, (batch, key/value heads, length, head_dim).
            recent: those of the last few steps, (batch, key/value heads, slots, head_dim).
            slots: (batch,) int32, where each row's new tokens go in `recent`.
            mask: (batch, 1, new, length + slots) bool, True at what each new token sees.
            rotary: angles at the new tokens' positions, or None.

        Returns:
            The output (batch, new, embedding_dim), and `recent` with the new tokens in it.
        """
        queries, new = self._heads(x, rotary)
        recent = put(recent, new, slots)
        return self._attend(queries, [past, recent], mask, training=False), recent

    def _heads(self, x: Any, rotary: RotaryTables | None) -> tuple[Any, KeyValues]:
        config = self.gpt_config
        kv_heads, head_dim = config.key_value_heads, config.head_dim
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        kv_dim = kv_heads * head_dim
        projected = self.qkv(x)
        split = [config.embedding_dim, config.embedding_dim + kv_dim]
        queries, keys, values = ops.split(projected, split, axis=-1)

        def by_head(vectors: Any, heads: int) -> Any:
            vectors = ops.reshape(vectors, (batch, time, heads, head_dim))
            return ops.transpose(vectors, (0, 2, 1, 3))  # (batch, heads, time, head_dim)

        queries = by_head(queries, config.num_heads)
        keys, values = by_head(keys, kv_heads), by_head(values, kv_heads)
        if rotary is not None:
            queries, keys = rotate(queries, rotary), rotate(keys, rotary)
        return queries, KeyValues(keys, values)

    def _attend(
        self, queries: Any, parts: Sequence[KeyValues], mask: Any, training: bool | None
    ) -> Any:
        """Attend to keys and values that lie in one or more tensors, one after the other."""
        return self._output(self._weights(queries, parts, mask), parts, training)

    def _weights(self, queries: Any, parts: Sequence[KeyValues], mask: Any) -> Any:
        """Give softmax(Q Kᵀ / sqrt(head_dim)), (batch, heads, query, key) float32."""
        config = self.gpt_config
        batch, time = ops.shape(queries)[0], ops.shape(queries)[2]
        group = config.num_heads // config.key_value_heads
        # The queries that share a key head lie one after the other: as more rows of one product.
        if group > 1:
            queries = ops.reshape(
                queries, (batch, config.key_value_heads, group * time, config.head_dim)
            )
        queries = queries * (1.0 / math.sqrt(config.head_dim))
        scores = _joined([_scores(queries, keys) for keys, _ in parts])
        # Half precision cannot hold the sum of many exponentials.
        scores = ops.cast(scores, "float32")  # (batch, key/value heads, group * query, key)
        if group > 1:
            length = ops.shape(scores)[3]
            scores = ops.reshape(scores, (batch, config.num_heads, time, length))
        return _softmax(ops.where(mask, scores, LARGE_NEGATIVE))

    def _output(self, weights: Any, parts: Sequence[KeyValues], training: bool | None) -> Any:
        """Weigh the values, and project."""
        config = self.gpt_config
        batch, _, time, length = ops.shape(weights)
        group = config.num_heads // config.key_value_heads
        weights = ops.cast(weights, parts[0].values.dtype)
        if training:
            weights = self.dropout(weights, training=True)
        if group > 1:
            weights = ops.reshape(weights, (batch, config.key_value_heads, group * time, length))
        out = _weigh(weights, parts)
        out = ops.reshape(out, (batch, config.num_heads, time, config.head_dim))
        out = ops.transpose(out, (0, 2, 1, 3))
        out = ops.reshape(out, (batch, time, config.embedding_dim))
        return self.projection(out)

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep the shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Give what the layer is made from."""
        return {**super().get_config(), "config": self.gpt_config.to_dict()}


def _to_keep(new: KeyValues) -> KeyValues:
    """Give keys and values as a cache keeps them: on a CPU as float32 where they are of half precision.

    XLA makes float32 of what it multiplies there, in each step of all that came before.
    """
    if not (is_half(new.keys.dtype) and is_on_cpu()):
        return new
    return KeyValues(*[ops.cast(part, "float32") for part in new])


def _scores(queries: Any, keys: Any) -> Any:
    """Give (batch, heads, query, key) products."""
    queries = ops.cast(queries, keys.dtype)
    if queries.shape[2] is not None and queries.shape[2] <= _FEW:
        # The keys on the left: on the right, XLA would lay all of them out anew for a few queries.
        return ops.transpose(ops.matmul(keys, ops.transpose(queries, (0, 1, 3, 2))), (0, 1, 3, 2))
    return ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2)))


def _weigh(weights: Any, parts: Sequence[KeyValues]) -> Any:
    if len(parts) == 1:
        return ops.matmul(weights, parts[0].values)
    past, recent = parts
    length = ops.shape(past.values)[2]
    return ops.matmul(weights[..., :length], past.values) + ops.matmul(
        weights[..., length:], recent.values
    )


def _softmax(scores: Any) -> Any:
    """Give the softmax over the last axis of finite scores."""
    length = scores.shape[-1]
    if length is None or not 16 <= length < _NOT_UNROLLED:
        return ops.softmax(scores, axis=-1)
    more = [[0, 0], [0, 0], [0, 0], [0, _NOT_UNROLLED - length]]
    scores = ops.pad(scores, more, constant_values=-float("inf"))
    return ops.softmax(scores, axis=-1)[..., :length]


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


# What is laid out anew for more queries than these costs little beside their product.
_FEW = 16
# XLA unrolls the loops of a softmax over fewer places, and takes up to ten times as long to compile it.
_NOT_UNROLLED = 40
# Scores are float32 when they are masked. Not -inf: a row that sees nothing must stay finite.
LARGE_NEGATIVE = -1e30


def residual_initializer(config: GPTConfig) -> keras.initializers.Initializer:
    """Scale down what is added to the residual stream by the square root of how often that happens.

    Source: GPT-2, section 2.3: weights of residual layers are scaled by 1/sqrt(N), N residual layers.
    """
    additions = 2 * config.num_layers
    return keras.initializers.RandomNormal(stddev=config.initializer_range / math.sqrt(additions))
