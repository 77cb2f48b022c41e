"""Where a token stands: learned or sinusoidal vectors that are added, or rotations of queries and keys."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gpt.config import GPTConfig
from keras_gpt.key_values import KeyValues
from keras_gpt.layers.few_rows import look_up
from keras_gpt.rotary_scaling import RotaryScaling, rotary_frequencies


def sinusoidal_table(length: int, dim: int) -> np.ndarray:
    """Give the fixed position vectors of the Transformer.

    Even columns are sin(pos / 10000^(2i/dim)), odd ones the cosine of the same angle.

    Args:
        length: number of positions.
        dim: width of a vector.

    Returns:
        (length, dim) float32.

    Example:
        >>> sinusoidal_table(2, 4)[0]
        array([0., 1., 0., 1.], dtype=float32)

    Source: "Attention Is All You Need", arXiv:1706.03762, section 3.5.
    """
    columns = np.arange(0, dim, 2)
    angles = np.arange(length)[:, None] / 10000.0 ** (columns / dim)  # (length, ceil(dim / 2))
    table = np.zeros((length, dim))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : dim // 2]
    return table.astype("float32")


@keras.saving.register_keras_serializable("keras_gpt")
class PositionEmbedding(keras.layers.Layer):
    """Vectors for positions: a learned table, or fixed sines and cosines with optional noise.

    Args:
        config: `positions` is "learned" or "sinusoidal"; `position_noise` is the standard deviation
            of the noise that training adds to sinusoidal ones.

    Call arguments:
        positions: (batch or 1, time) int32.
        training: whether noise is added.

    Returns:
        (batch or 1, time, embedding_dim).

    Example:
        >>> layer = PositionEmbedding(GPTConfig.preset("gpt2"))
        >>> layer(np.arange(4)[None]).shape
        (1, 4, 768)
    """

    def __init__(self, config: GPTConfig | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gpt_config = GPTConfig.of(config)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Any = None) -> None:
        """Make the table."""
        shape = (self.gpt_config.context_length, self.gpt_config.embedding_dim)
        if self.gpt_config.positions == "learned":
            self.table = self.add_weight(
                shape=shape,
                initializer=keras.initializers.RandomNormal(
                    stddev=self.gpt_config.initializer_range
                ),
                name="table",
            )

    def call(self, positions: Any, training: bool | None = None) -> Any:
        """Look the positions up."""
        if self.gpt_config.positions == "learned":
            return look_up(self.table, positions)
        fixed = sinusoidal_table(self.gpt_config.context_length, self.gpt_config.embedding_dim)
        vectors = ops.take(
            ops.convert_to_tensor(fixed, dtype=self.compute_dtype), positions, axis=0
        )
        if training and self.gpt_config.position_noise:
            vectors += keras.random.normal(
                ops.shape(vectors),
                stddev=self.gpt_config.position_noise,
                dtype=self.compute_dtype,
                seed=self.seed_generator,
            )
        return vectors

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Add the embedding's axis."""
        return (*input_shape, self.gpt_config.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        """Give what the layer is made from."""
        return {**super().get_config(), "config": self.gpt_config.to_dict()}


class RotaryTables(NamedTuple):
    """Cosines and sines of the angles at some positions, each (batch or 1, 1, time, head_dim / 2)."""

    cos: Any
    sin: Any


def rotary_tables(
    positions: Any, head_dim: int, base: float, scaling: RotaryScaling | None = None
) -> RotaryTables:
    """Compute the angles that rotary positions turn queries and keys by.

    Args:
        positions: (batch or 1, time) int32.
        head_dim: width of a head, even.
        base: base of the frequencies.
        scaling: how they are slowed for a longer context; None leaves them.

    Returns:
        float32 tables with an axis of one for the heads.

    Source: "RoFormer", arXiv:2104.09864, equation 15; the multiplier, arXiv:2309.00071, equation 22.
    """
    if scaling is None:
        frequencies = rotary_frequencies(head_dim, base)
    else:
        frequencies = scaling.frequencies(head_dim, base)
    angles = ops.expand_dims(ops.cast(positions, "float32"), -1) * frequencies.astype("float32")
    angles = ops.expand_dims(angles, 1)  # (batch, 1, time, head_dim / 2)
    cos, sin = ops.cos(angles), ops.sin(angles)
    if scaling is not None and scaling.multiplier != 1.0:
        cos, sin = cos * scaling.multiplier, sin * scaling.multiplier
    return RotaryTables(cos, sin)


def rotate(heads: Any, tables: RotaryTables) -> Any:
    """Turn each pair (i, i + head_dim / 2) of every head by its position's angle.

    The pairing of the first with the second half is the Llama family's.

    Args:
        heads: (batch, heads, time, head_dim) queries or keys.
        tables: the angles at these positions.

    Returns:
        The same shape and dtype; the turning itself is done in float32.
    """
    first, second = ops.split(ops.cast(heads, "float32"), 2, axis=-1)
    turned = ops.concatenate(
        [first * tables.cos - second * tables.sin, second * tables.cos + first * tables.sin],
        axis=-1,
    )
    return ops.cast(turned, heads.dtype)


def drop_turned(
    past: Sequence[KeyValues], first: Any, counts: Any, config: GPTConfig
) -> list[KeyValues]:
    """Take tokens out of keys that rotary positions have turned, and count positions anew.

    Turning by p and then back by d is turning by p - d: no key before its turning is needed.

    Args:
        past: for each layer a pair of (batch, heads, length, head_dim), every token at its position.
        first: scalar int32, the first place that is taken out.
        counts: (batch,) int32, how many are, in each row.

    Returns:
        The same shapes; what lies in a row's last `counts` places does not count.

    Source: arXiv:2309.17453, section 3.2.
    """
    length, scaling = ops.shape(past[0].keys)[2], config.rotary_scaling
    if scaling is not None and scaling.multiplier != 1.0:
        scaling = dataclasses.replace(scaling, attention_factor=1.0)  # the keys have it already
    places = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
    moved = ops.where(places >= first, ops.expand_dims(counts, 1), 0)  # (batch, length)
    index = ops.minimum(places + moved, length - 1)[:, None, :, None]
    tables = rotary_tables(-moved, config.head_dim, config.rotary_base, scaling)
    kept = []
    for layer in past:
        keys, values = (ops.take_along_axis(part, index, axis=2) for part in layer)
        kept.append(KeyValues(rotate(keys, tables), values))
    return kept
