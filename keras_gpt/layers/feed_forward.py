"""The feed-forward layer, dense or gated."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gpt.config import GPTConfig
from keras_gpt.layers.attention import residual_initializer
from keras_gpt.layers.quantized import Dense

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu_tanh": functools.partial(ops.gelu, approximate=True),
    "gelu": functools.partial(ops.gelu, approximate=False),
    "relu": ops.relu,
    "silu": ops.silu,
}


def activate(x: Any, name: str) -> Any:
    """Apply the activation that a config names ("gelu_tanh", "gelu", "relu" or "silu")."""
    # Half precision is rounded once: a CPU would round it after each operation.
    wide = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    return ops.cast(_ACTIVATIONS[name](wide), x.dtype)


@keras.saving.register_keras_serializable("keras_gpt")
class FeedForward(keras.layers.Layer):
    """Two dense layers with an activation between, or three where one gates another.

    Dense: down(activation(up(x))). Gated: down(activation(gate(x)) * up(x)).

    Args:
        config: gives the widths, the kind and the activation.

    Call arguments:
        x: (batch, time, embedding_dim).

    Returns:
        (batch, time, embedding_dim).

    Example:
        >>> FeedForward(GPTConfig.preset("gpt2"))(keras.random.normal((1, 4, 768))).shape
        (1, 4, 768)

    Source: "Attention Is All You Need", arXiv:1706.03762, equation 2; gated, arXiv:2002.05202.
    """

    def __init__(self, config: GPTConfig | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = self.gpt_config = GPTConfig.of(config)

        def dense(units: int, name: str, initializer: Any) -> Dense:
            return Dense(
                units,
                use_bias=config.use_bias,
                kernel_initializer=initializer,
                dtype=self.dtype_policy,
                name=name,
            )

        def normal() -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(stddev=config.initializer_range)

        self.gate = None
        if config.feed_forward == "gated":
            self.gate = dense(config.feed_forward_dim, "gate", normal())
        self.up = dense(config.feed_forward_dim, "up", normal())
        self.down = dense(config.embedding_dim, "down", residual_initializer(config))

    def build(self, input_shape: Any) -> None:
        """Make the matrices."""
        outer = (None, None, self.gpt_config.embedding_dim)
        if self.gate is not None:
            self.gate.build(outer)
        self.up.build(outer)
        self.down.build((None, None, self.gpt_config.feed_forward_dim))

    def call(self, x: Any) -> Any:
        """Widen, activate, narrow."""
        if self.gate is None:
            return self.down(activate(self.up(x), self.gpt_config.activation))
        return self.down(activate(self.gate(x), self.gpt_config.activation) * self.up(x))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Keep the shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Give what the layer is made from."""
        return {**super().get_config(), "config": self.gpt_config.to_dict()}
