"""Dense and embedding layers whose int8 form is made for decoding.

Decoding one token reads every weight once and computes little with it, so its time is that of
reading. Weights are rounded once, inputs at every call, a scale for each row of both (as Keras does
it, arXiv:2208.07339 section 2.1). What differs from Keras is how the integers lie and are multiplied:
with each output's weights side by side, and never fewer than two rows of inputs, XLA takes a fast
integer product on a CPU. Keras' own int8 was several times slower (tests/benchmarks/RESULTS.md).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

_LARGEST = 127


@keras.saving.register_keras_serializable("keras_gpt")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`, with an int8 form that a product with few rows is fast with.

    `quantize("int8")` rounds the weights of each output to integers up to 127 times a scale, and
    from then on so is each row of inputs; other modes are Keras' own. Arguments are those of
    `keras.layers.Dense`.

    Example:
        >>> layer = Dense(3)
        >>> layer.build((None, 4))
        >>> layer.quantize("int8")
    """

    @property
    def kernel(self) -> Any:
        """The matrix (inputs, units); of an int8 layer, as its integers stand for it."""
        if self.quantization_mode != "int8":
            return super().kernel
        kernel = ops.transpose(
            ops.cast(self._kernel, self.variable_dtype) * ops.expand_dims(self.kernel_scale, 1)
        )
        if self.lora_enabled:
            scale = self.lora_alpha / self.lora_rank
            kernel = kernel + scale * ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        return kernel

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Replace the weights by integers; see the class."""
        if mode != "int8":
            super().quantize(mode, type_check=False, config=config)
            return
        values, scale = rounded(ops.transpose(self.kernel))
        del self._kernel
        self.quantized_build(values.shape, mode, config)
        self._kernel.assign(values)
        self.kernel_scale.assign(scale)
        _set_int8_policy(self)

    def _int8_build(self, kernel_shape: Any, config: Any = None) -> None:
        self._kernel = self.add_weight(
            name="kernel", shape=kernel_shape, initializer="zeros", dtype="int8", trainable=False
        )
        self.kernel_scale = self.add_weight(
            name="kernel_scale", shape=(self.units,), initializer="ones", trainable=False
        )

    def _int8_call(self, inputs: Any, training: bool | None = None) -> Any:
        x = int8_product(inputs, self._kernel, self.kernel_scale)
        if self.lora_enabled:
            delta = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            x = x + ops.cast(self.lora_alpha / self.lora_rank * delta, x.dtype)
        if self.bias is not None:
            x = x + ops.cast(self.bias, x.dtype)
        return x if self.activation is None else self.activation(x)


@keras.saving.register_keras_serializable("keras_gpt")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding`, with an int8 form like that of `Dense`.

    Arguments are those of `keras.layers.ReversibleEmbedding`.

    Example:
        >>> layer = TokenEmbedding(100, 16)
        >>> layer(np.array([[1, 2]])).shape
        (1, 2, 16)
    """

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Replace the weights by integers; see `Dense`."""
        if mode != "int8":
            super().quantize(mode, type_check=False, config=config)
            return
        values, scale = rounded(self._embeddings)
        reverse = None if self.tie_weights else rounded(ops.transpose(self.reverse_embeddings))
        del self._embeddings
        if reverse is not None:
            del self.reverse_embeddings
        self.quantized_build(values.shape, mode, config)
        self._embeddings.assign(values)
        self.embeddings_scale.assign(scale)
        if reverse is not None:
            self.reverse_embeddings.assign(reverse[0])
            self.reverse_embeddings_scale.assign(reverse[1])
        _set_int8_policy(self)

    def _int8_build(self, embeddings_shape: Any, config: Any = None) -> None:
        def matrix(name: str) -> Any:
            return self.add_weight(
                name=name,
                shape=embeddings_shape,
                initializer="zeros",
                dtype="int8",
                trainable=False,
            )

        def scale(name: str) -> Any:
            return self.add_weight(
                name=name, shape=(self.input_dim,), initializer="ones", trainable=False
            )

        self._embeddings = matrix("embeddings")
        self.embeddings_scale = scale("embeddings_scale")
        if not self.tie_weights:
            self.reverse_embeddings = matrix("reverse_embeddings")
            self.reverse_embeddings_scale = scale("reverse_embeddings_scale")

    def _int8_call(self, inputs: Any, reverse: bool = False) -> Any:
        if not reverse:
            rows = ops.take(ops.convert_to_tensor(self._embeddings), inputs, axis=0)
            scale = ops.take(ops.convert_to_tensor(self.embeddings_scale), inputs, axis=0)
            scaled = ops.cast(rows, scale.dtype) * ops.expand_dims(scale, -1)
            return ops.cast(scaled, self.compute_dtype)
        if self.tie_weights:
            return int8_product(inputs, self._embeddings, self.embeddings_scale)
        return int8_product(inputs, self.reverse_embeddings, self.reverse_embeddings_scale)


def _set_int8_policy(layer: keras.layers.Layer) -> None:
    """Let a layer be called as an int8 one, whose results have the dtype that they had."""
    layer.dtype_policy = keras.dtype_policies.get(f"int8_from_{layer.dtype_policy.name}")


def rounded(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Round each row of a matrix to integers from -127 to 127.

    Args:
        matrix: (rows, columns) float.

    Returns:
        (rows, columns) int8, and (rows,) float32, what one step of each row stands for.
    """
    integers, scale = _round_rows(ops.cast(matrix, "float32"))
    return ops.convert_to_numpy(integers), ops.convert_to_numpy(scale)[:, 0]


def int8_product(x: Any, matrix: Any, scale: Any) -> Any:
    """Round x row by row and multiply it by a rounded matrix: x Wᵀ.

    The integers' sums are exact, so a row's result does not depend on the rows beside it. The
    gradient of x is that of the product without the rounding.

    Args:
        x: (..., columns) float.
        matrix: (rows, columns) int8.
        scale: (rows,) float, what one step of each row stands for.

    Returns:
        (..., rows) in the dtype of `x`.
    """
    columns = x.shape[-1]

    @ops.custom_gradient
    def product(x: Any, matrix: Any, scale: Any) -> Any:
        flat = ops.reshape(ops.cast(x, "float32"), (-1, columns))
        count = flat.shape[0]
        if count is None or count < 2:
            # A product with one row takes another road in XLA, which is slower.
            flat = ops.pad(flat, [[0, 1], [0, 0]])
        integers, steps = _round_rows(flat)
        sums = ops.cast(_integer_product(integers, matrix), "float32")
        # (rows of x, 1) * (rows of the matrix,)
        result = ops.cast(sums * steps * ops.cast(scale, "float32"), x.dtype)
        if count is None or count < 2:
            result = result[:-1]
        result = ops.reshape(result, (*ops.shape(x)[:-1], matrix.shape[0]))

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, None, None]:
            upstream = args[0] if upstream is None else upstream
            full = ops.cast(matrix, upstream.dtype) * ops.cast(
                ops.expand_dims(scale, 1), upstream.dtype
            )
            return ops.matmul(upstream, full), None, None

        return result, gradient

    return product(x, ops.convert_to_tensor(matrix), ops.convert_to_tensor(scale))


def _integer_product(integers: Any, matrix: Any) -> Any:
    """Give x Wᵀ of (n, columns) and (rows, columns) int8 as (n, rows) int32."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras has no product with a transposed matrix, and XLA would lay the whole of it out anew.
        return tf.matmul(integers, matrix, transpose_b=True, output_type=tf.int32)
    return ops.matmul(integers, ops.transpose(matrix))


def _round_rows(matrix: Any) -> tuple[Any, Any]:
    """Give integers as (rows, columns) int8, and what a step stands for as (rows, 1) float32."""
    largest = ops.max(ops.abs(matrix), axis=1, keepdims=True)
    steps = ops.maximum(largest, float(np.finfo("float32").tiny)) / _LARGEST
    return ops.cast(ops.round(matrix / steps), "int8"), steps
