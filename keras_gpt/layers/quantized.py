"""Dense and embedding layers whose int8 and int4 forms are made for decoding.

Decoding one token reads every weight once and computes little with it, so its time is that of
reading. What differs from Keras' own int8 and int4 is how the integers lie and are multiplied: with
each output's weights side by side, and never fewer than two rows of inputs, XLA takes a fast integer
product on a CPU. Keras' own int8 was several times slower (tests/benchmarks/RESULTS.md).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gpt.layers.few_rows import product
from keras_gpt.layers.integers import (
    int4_product,
    int8_product,
    packed_shapes,
    rounded,
    rounded_4,
    unpacked,
)

# Modes whose rounding and products are ours, each with one setting only; others are Keras' own.
OUR_MODES = ("int8", "int4")


@keras.saving.register_keras_serializable("keras_gpt")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`, with int8 and int4 forms that a product with few rows is fast with.

    `quantize("int8")` rounds the weights of each output to integers up to 127 times a scale,
    `quantize("int4")` to integers from 0 to 15, with a multiplier and an offset for each 32 of them
    and a scale; from then on each row of inputs is rounded to integers up to 127. Other modes are
    Keras' own.
    Arguments are those of `keras.layers.Dense`.

    Example:
        >>> layer = Dense(3)
        >>> layer.build((None, 4))
        >>> layer.quantize("int8")
    """

    @property
    def kernel(self) -> Any:
        """The matrix (inputs, units); of a rounded layer, as its integers stand for it."""
        if self.quantization_mode not in OUR_MODES:
            return super().kernel
        integers = ops.convert_to_tensor(self._kernel)
        if self.quantization_mode == "int4":
            integers = unpacked(
                integers,
                ops.convert_to_tensor(self.kernel_multipliers),
                ops.convert_to_tensor(self.kernel_offsets),
                self._orig_input_dim,
            )
        kernel = ops.transpose(
            ops.cast(integers, self.variable_dtype) * ops.expand_dims(self.kernel_scale, 1)
        )
        if self.lora_enabled:
            scale = self.lora_alpha / self.lora_rank
            kernel = kernel + scale * ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        return kernel

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Multiply by the matrix, add the bias, activate."""
        return self._activated(product(inputs, ops.convert_to_tensor(self.kernel)))

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Replace the weights by integers; see the class."""
        if mode not in OUR_MODES:
            super().quantize(mode, type_check=False, config=config)
            return
        matrix = ops.transpose(self.kernel)  # (units, inputs)
        del self._kernel
        self.quantized_build(tuple(matrix.shape), mode, config)
        if mode == "int8":
            _assign(rounded(matrix), self._kernel, self.kernel_scale)
        else:
            variables = (self.kernel_multipliers, self.kernel_offsets, self.kernel_scale)
            _assign(rounded_4(matrix), self._kernel, *variables)
        _set_policy(self, mode)

    def _int8_build(self, kernel_shape: Any, config: Any = None) -> None:
        self._kernel = _add_integers(self, "kernel", kernel_shape)
        self.kernel_scale = _add_scale(self, "kernel_scale", self.units)

    def _int4_build(self, kernel_shape: Any, config: Any = None) -> None:
        self._orig_input_dim = kernel_shape[1]  # Keras' `enable_lora` asks for it by this name
        self._kernel, self.kernel_multipliers, self.kernel_offsets = _add_packed(
            self, "kernel", kernel_shape
        )
        self.kernel_scale = _add_scale(self, "kernel_scale", self.units)

    def _int8_call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._finish(inputs, int8_product(inputs, self._kernel, self.kernel_scale))

    def _int4_call(self, inputs: Any, training: bool | None = None) -> Any:
        groups = (self.kernel_multipliers, self.kernel_offsets)
        return self._finish(inputs, int4_product(inputs, self._kernel, *groups, self.kernel_scale))

    def _finish(self, inputs: Any, x: Any) -> Any:
        if self.lora_enabled:
            delta = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            x = x + ops.cast(self.lora_alpha / self.lora_rank * delta, x.dtype)
        return self._activated(x)

    def _activated(self, x: Any) -> Any:
        if self.bias is not None:
            x = x + ops.cast(self.bias, x.dtype)
        return x if self.activation is None else self.activation(x)


@keras.saving.register_keras_serializable("keras_gpt")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding`, with int8 and int4 forms like those of `Dense`.

    Arguments are those of `keras.layers.ReversibleEmbedding`.

    Example:
        >>> layer = TokenEmbedding(100, 16)
        >>> layer(np.array([[1, 2]])).shape
        (1, 2, 16)
    """

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Replace the weights by integers; see `Dense`."""
        if mode not in OUR_MODES:
            super().quantize(mode, type_check=False, config=config)
            return
        names = ["embeddings"] if self.tie_weights else ["embeddings", "reverse_embeddings"]
        matrices = [ops.convert_to_tensor(self._embeddings)]
        del self._embeddings
        if not self.tie_weights:
            matrices.append(ops.transpose(ops.convert_to_tensor(self.reverse_embeddings)))
            del self.reverse_embeddings
        self.quantized_build(tuple(matrices[0].shape), mode, config)
        for name, matrix in zip(names, matrices, strict=True):
            values = rounded(matrix) if mode == "int8" else rounded_4(matrix)
            _assign(values, *self._stored(name, mode))
        _set_policy(self, mode)

    def _stored(self, name: str, mode: str) -> list[Any]:
        """Give the variables of one of the matrices in the order of `rounded` and `rounded_4`."""
        integers = self._embeddings if name == "embeddings" else self.reverse_embeddings
        kinds = ["scale"] if mode == "int8" else ["multipliers", "offsets", "scale"]
        return [integers, *(getattr(self, f"{name}_{kind}") for kind in kinds)]

    def _int8_build(self, embeddings_shape: Any, config: Any = None) -> None:
        self._embeddings = _add_integers(self, "embeddings", embeddings_shape)
        self.embeddings_scale = _add_scale(self, "embeddings_scale", self.input_dim)
        if not self.tie_weights:
            self.reverse_embeddings = _add_integers(self, "reverse_embeddings", embeddings_shape)
            self.reverse_embeddings_scale = _add_scale(
                self, "reverse_embeddings_scale", self.input_dim
            )

    def _int4_build(self, embeddings_shape: Any, config: Any = None) -> None:
        self._embeddings, self.embeddings_multipliers, self.embeddings_offsets = _add_packed(
            self, "embeddings", embeddings_shape
        )
        self.embeddings_scale = _add_scale(self, "embeddings_scale", self.input_dim)
        if not self.tie_weights:
            (
                self.reverse_embeddings,
                self.reverse_embeddings_multipliers,
                self.reverse_embeddings_offsets,
            ) = _add_packed(self, "reverse_embeddings", embeddings_shape)
            self.reverse_embeddings_scale = _add_scale(
                self, "reverse_embeddings_scale", self.input_dim
            )

    def _int8_call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return int8_product(inputs, *self._projection("int8"))
        integers, scale = self._rows(inputs, "int8")
        return self._looked_up(inputs, integers, scale)

    def _int4_call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return int4_product(inputs, *self._projection("int4"))
        packed, multipliers, offsets, scale = self._rows(inputs, "int4")
        integers = unpacked(packed, multipliers, offsets, self.output_dim)
        return self._looked_up(inputs, integers, scale)

    def _projection(self, mode: str) -> list[Any]:
        return self._stored("embeddings" if self.tie_weights else "reverse_embeddings", mode)

    def _rows(self, ids: Any, mode: str) -> list[Any]:
        flat = ops.reshape(ids, (-1,))
        stored = self._stored("embeddings", mode)
        return [ops.take(ops.convert_to_tensor(each), flat, axis=0) for each in stored]

    def _looked_up(self, ids: Any, integers: Any, scale: Any) -> Any:
        scaled = ops.cast(integers, scale.dtype) * ops.expand_dims(scale, 1)
        shape = (*ops.shape(ids), self.output_dim)
        return ops.reshape(ops.cast(scaled, self.compute_dtype), shape)


def _add_integers(layer: keras.layers.Layer, name: str, shape: tuple[int, int]) -> Any:
    return layer.add_weight(
        name=name, shape=shape, initializer="zeros", dtype="int8", trainable=False
    )


def _add_packed(layer: keras.layers.Layer, name: str, shape: tuple[int, int]) -> list[Any]:
    packed, groups = packed_shapes(*shape)
    shapes = {name: packed, f"{name}_multipliers": groups, f"{name}_offsets": groups}
    return [_add_integers(layer, each, shapes[each]) for each in shapes]


def _add_scale(layer: keras.layers.Layer, name: str, rows: int) -> Any:
    return layer.add_weight(name=name, shape=(rows,), initializer="ones", trainable=False)


def _assign(values: tuple[np.ndarray, ...], *variables: Any) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _set_policy(layer: keras.layers.Layer, mode: str) -> None:
    """Let a layer be called as a rounded one, whose results have the dtype that they had."""
    layer.dtype_policy = keras.dtype_policies.get(f"{mode}_from_{layer.dtype_policy.name}")
