"""One block of a GPT: attention, feed-forward, and the norms around them."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

from keras_gpt.config import GPTConfig
from keras_gpt.key_values import KeyValues
from keras_gpt.layers.attention import CausalSelfAttention
from keras_gpt.layers.feed_forward import FeedForward
from keras_gpt.layers.normalization import make_norm
from keras_gpt.layers.positions import RotaryTables

Kept = TypeVar("Kept")


@keras.saving.register_keras_serializable("keras_gpt")
class Block(keras.layers.Layer):
    """Attention and feed-forward, each added to the residual stream.

    Pre-norm (GPT-2): x + f(norm(x)). Post-norm (GPT-1): norm(x + f(x)).

    Args:
        config: gives everything.

    Call arguments:
        x: (batch, time, embedding_dim).
        mask: (batch or 1, 1, query, key) bool, True where the query sees the key.
        rotary: angles for rotary positions, or None.
        training: whether dropout acts.

    Returns:
        (batch, time, embedding_dim).

    Example:
        >>> block = Block(GPTConfig.preset("gpt1"))
        >>> block(keras.random.normal((1, 4, 768)), attention_mask(4)).shape
        (1, 4, 768)
    """

    def __init__(self, config: GPTConfig | dict[str, Any], **kwargs: Any) -> None:
        # Keras would cast the rotary tables, whose angles half precision cannot hold.
        super().__init__(autocast=False, **kwargs)
        config = self.gpt_config = GPTConfig.of(config)
        dtype = self.dtype_policy
        self.attention_norm = make_norm(config, "attention_norm", dtype)
        self.attention = CausalSelfAttention(config, name="attention", dtype=dtype)
        self.feed_forward_norm = make_norm(config, "feed_forward_norm", dtype)
        self.feed_forward = FeedForward(config, name="feed_forward", dtype=dtype)
        self.dropout = keras.layers.Dropout(config.residual_dropout, name="dropout", dtype=dtype)

    def build(self, input_shape: Any) -> None:
        """Build the four layers."""
        shape = (None, None, self.gpt_config.embedding_dim)
        self.attention_norm.build(shape)
        self.attention.build(shape)
        self.feed_forward_norm.build(shape)
        self.feed_forward.build(shape)

    def call(
        self,
        x: Any,
        mask: Any,
        rotary: RotaryTables | None = None,
        training: bool | None = None,
    ) -> Any:
        """Run the block without a cache."""
        return self._run(x, lambda h: self.attention(h, mask, rotary, training=training), training)

    def prefill(self, x: Any, mask: Any, rotary: RotaryTables | None) -> tuple[Any, KeyValues]:
        """Run the block and give its keys and values too."""
        return self._run_keeping(x, lambda h: self.attention.prefill(h, mask, rotary))

    def with_weights(self, x: Any, mask: Any, rotary: RotaryTables | None) -> tuple[Any, Any]:
        """Run the block and give its attention weights too, (batch, heads, query, key) float32."""
        return self._run_keeping(x, lambda h: self.attention.with_weights(h, mask, rotary))

    def step(
        self,
        x: Any,
        past: KeyValues,
        recent: KeyValues,
        slots: Any,
        mask: Any,
        rotary: RotaryTables | None,
    ) -> tuple[Any, KeyValues]:
        """Run the block on new tokens; see `CausalSelfAttention.step`."""
        return self._run_keeping(
            x, lambda h: self.attention.step(h, past, recent, slots, mask, rotary)
        )

    def _run_keeping(self, x: Any, attend: Callable[[Any], tuple[Any, Kept]]) -> tuple[Any, Kept]:
        kept: list[Kept] = []

        def attend_and_keep(h: Any) -> Any:
            out, more = attend(h)
            kept.append(more)
            return out

        return self._run(x, attend_and_keep, training=False), kept[0]

    def _run(self, x: Any, attend: Callable[[Any], Any], training: bool | None) -> Any:
        def drop(h: Any) -> Any:
            return self.dropout(h, training=training)

        if self.gpt_config.norm_placement == "pre":
            x = x + drop(attend(self.attention_norm(x)))
            return x + drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + drop(attend(x)))
        return self.feed_forward_norm(x + drop(self.feed_forward(x)))

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """Keep the shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Give what the layer is made from."""
        return {**super().get_config(), "config": self.gpt_config.to_dict()}
