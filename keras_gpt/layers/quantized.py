"""Dense and embedding layers whose int8 and int4 forms are made for decoding.

Decoding one token reads every weight once and computes little with it, so its time is that of
reading. What differs from Keras' own int8 and int4 is how the integers lie and are multiplied: with
each output's weights side by side, XLA on a CPU reads them fast. Keras' own int8 was several times
slower (tests/benchmarks/RESULTS.md).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gpt.layers.few_rows import look_up, plain_product, product, turned_product
from keras_gpt.layers.integers import int4_product, int8_product, unpacked
from keras_gpt.layers.rounding import OUR_MODES, Matrix, RoundedMatrices
from keras_gpt.matrix_order import as_in_files, lies_by_outputs


@keras.saving.register_keras_serializable("keras_gpt")
class Dense(RoundedMatrices, keras.layers.Dense):
    """`keras.layers.Dense`, with int8 and int4 forms that a product with few rows is fast with.

    `quantize("int8")` rounds the weights of each output to integers up to 127 times a scale,
    `quantize("int4")` to integers from 0 to 15, with a multiplier and an offset for each 32 of them
    and a scale. Inputs stay floats, or become integers of 23 bits for the time of a product. Other
    modes are Keras' own.
    Arguments are those of `keras.layers.Dense`.

    Example:
        >>> layer = Dense(3)
        >>> layer.build((None, 4))
        >>> layer.quantize("int8")
    """

    _kernel: Any

    def build(self, input_shape: Any) -> None:
        """Make the matrix, of floats or of integers as the policy says, and the bias."""
        self._orig_input_dim = input_shape[-1]  # Keras' `enable_lora` asks for it by this name
        super().build(input_shape)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Add a weight; what Keras calls the kernel is made with each output's weights in a row."""
        # Integers, which never learn, lie so already; Keras' other modes want its own order.
        if kwargs.get("name") != "kernel" or "trainable" in kwargs or self.quantization_mode:
            return super().add_weight(*args, **kwargs)
        initialize, regularize, constrain = (
            kwargs[name] for name in ("initializer", "regularizer", "constraint")
        )
        turned: dict[str, Any] = {
            "shape": kwargs["shape"][::-1],
            "initializer": lambda shape, dtype=None: ops.transpose(
                initialize(shape[::-1], dtype=dtype)
            ),
        }
        if regularize is not None:
            turned["regularizer"] = lambda kernel: regularize(ops.transpose(kernel))
        if constrain is not None:
            turned["constraint"] = lambda kernel: ops.transpose(constrain(ops.transpose(kernel)))
        kernel = super().add_weight(*args, **{**kwargs, **turned})
        kernel.lies_by_outputs = True  # see `matrix_order`
        kernel.may_be_reordered = kernel.dtype == "bfloat16"
        return kernel

    def matrices(self) -> dict[str, Matrix]:
        """Give the one matrix."""
        return {"kernel": Matrix("_kernel", (self._orig_input_dim, self.units), turned=True)}

    @property
    def kernel(self) -> Any:
        """The matrix (inputs, units), with what LoRA adds; integers as what they stand for."""
        if self.quantization_mode not in OUR_MODES:
            if not lies_by_outputs(getattr(self, "_kernel", None)):
                return super().kernel
            return self._with_lora(ops.transpose(self._kernel), self.compute_dtype)
        integers = ops.convert_to_tensor(self._kernel)
        if self.quantization_mode == "int4":
            integers = unpacked(
                integers,
                ops.convert_to_tensor(self.kernel_multipliers),
                ops.convert_to_tensor(self.kernel_offsets),
                self._orig_input_dim,
            )
        scale = ops.expand_dims(self.kernel_scale, 1)
        kernel = ops.transpose(ops.cast(integers, scale.dtype) * scale)
        return ops.cast(self._with_lora(kernel, self.variable_dtype), self.variable_dtype)

    def _with_lora(self, kernel: Any, dtype: str) -> Any:
        if not self.lora_enabled:
            return kernel
        delta = ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        return ops.cast(kernel + self.of_lora(delta, kernel.dtype), dtype)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Replace the weights by integers; see the class."""
        if mode not in OUR_MODES and lies_by_outputs(self._kernel):
            value = as_in_files(self._kernel, self._kernel.numpy())
            del self._kernel
            self._kernel = super().add_weight(
                name="kernel", shape=value.shape, initializer=lambda *_, **__: value
            )
        super().quantize(mode, type_check, config)

    def load_own_variables(self, store: Any) -> None:
        """Read the weights from a `.keras` or `.weights.h5` file, where they lie as Keras' do."""
        if lies_by_outputs(getattr(self, "_kernel", None)) and "0" in store.keys():  # noqa: SIM118, an H5 store is no mapping
            values = {key: store[key] for key in store.keys()}  # noqa: SIM118
            store = {**values, "0": np.transpose(values["0"])}
        super().load_own_variables(store)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Multiply by the matrix, add the bias, activate."""
        matrix = ops.transpose(self.kernel) if self.lora_enabled else self._kernel
        if training:
            return self._activated(plain_product(inputs, ops.convert_to_tensor(matrix)))
        return self._activated(product(inputs, matrix))

    def _int8_call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._finish(inputs, int8_product(inputs, self._kernel, self.kernel_scale))

    def _int4_call(self, inputs: Any, training: bool | None = None) -> Any:
        groups = (self.kernel_multipliers, self.kernel_offsets)
        return self._finish(inputs, int4_product(inputs, self._kernel, *groups, self.kernel_scale))

    def _finish(self, inputs: Any, x: Any) -> Any:
        if self.lora_enabled:
            delta = ops.matmul(ops.matmul(inputs, self.lora_kernel_a), self.lora_kernel_b)
            x = x + self.of_lora(delta, x.dtype)
        return self._activated(x)

    def _activated(self, x: Any) -> Any:
        if self.bias is not None:
            x = x + ops.cast(self.bias, x.dtype)
        return x if self.activation is None else self.activation(x)


@keras.saving.register_keras_serializable("keras_gpt")
class TokenEmbedding(RoundedMatrices, keras.layers.ReversibleEmbedding):
    """`keras.layers.ReversibleEmbedding`, with int8 and int4 forms like those of `Dense`.

    Arguments are those of `keras.layers.ReversibleEmbedding`.

    Example:
        >>> layer = TokenEmbedding(100, 16)
        >>> layer(np.array([[1, 2]])).shape
        (1, 2, 16)
    """

    def build(self, input_shape: Any = None) -> None:
        """Make the embeddings, of floats or of integers as the policy says."""
        self._orig_output_dim = self.output_dim  # Keras' `enable_lora` asks for it by this name
        super().build(input_shape)
        if self.tie_weights and self._embeddings.dtype == "bfloat16" and not self.lora_enabled:
            self._embeddings.may_be_reordered = True  # see `matrix_order`

    @property
    def embeddings(self) -> Any:
        """The matrix (ids, width); of a rounded layer, as its integers stand for it."""
        if self.quantization_mode not in OUR_MODES:
            return super().embeddings
        return ops.cast(self(ops.arange(self.input_dim, dtype="int32")), self.variable_dtype)

    def matrices(self) -> dict[str, Matrix]:
        """Give the embeddings, and the output projection where it is not the same matrix."""
        found = {"embeddings": Matrix("_embeddings", (self.input_dim, self.output_dim), False)}
        if not self.tie_weights:
            shape = (self.output_dim, self.input_dim)
            found["reverse_embeddings"] = Matrix("reverse_embeddings", shape, turned=True)
        return found

    def call(self, inputs: Any, reverse: bool = False) -> Any:
        """Look ids up, or multiply states by the output projection."""
        if not reverse:
            if self.mask_zero:
                return super().call(inputs)
            return ops.cast(look_up(self.embeddings, ops.cast(inputs, "int32")), self.compute_dtype)
        dtype = self.reverse_dtype or self.compute_dtype
        matrix = self.embeddings if self.tie_weights else self.reverse_embeddings
        # A copy may be read of the variable itself.
        if matrix.dtype != dtype:
            matrix = ops.cast(matrix, dtype)
        states = ops.cast(inputs, dtype)
        logits = product(states, matrix) if self.tie_weights else turned_product(states, matrix)
        if self.logit_soft_cap is None:
            return logits
        return ops.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap

    def _int8_call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return self._projected(inputs, int8_product(inputs, *self._projection()))
        integers, scale = self._rows(inputs)
        return self._looked_up(inputs, integers, scale)

    def _int4_call(self, inputs: Any, reverse: bool = False) -> Any:
        if reverse:
            return self._projected(inputs, int4_product(inputs, *self._projection()))
        packed, multipliers, offsets, scale = self._rows(inputs)
        integers = unpacked(packed, multipliers, offsets, self.output_dim)
        return self._looked_up(inputs, integers, scale)

    def _projection(self) -> list[Any]:
        return self.stored("embeddings" if self.tie_weights else "reverse_embeddings")

    def _projected(self, states: Any, logits: Any) -> Any:
        if not (self.lora_enabled and self.tie_weights):
            return logits
        down = ops.matmul(states, ops.transpose(self.lora_embeddings_b))
        delta = ops.matmul(down, ops.transpose(self.lora_embeddings_a))
        return logits + self.of_lora(delta, logits.dtype)

    def _rows(self, ids: Any) -> list[Any]:
        flat = ops.reshape(ids, (-1,))
        stored = self.stored("embeddings")
        return [ops.take(ops.convert_to_tensor(each), flat, axis=0) for each in stored]

    def _looked_up(self, ids: Any, integers: Any, scale: Any) -> Any:
        scaled = ops.cast(integers, scale.dtype) * ops.expand_dims(scale, 1)
        shape = (*ops.shape(ids), self.output_dim)
        found = ops.reshape(ops.cast(scaled, self.compute_dtype), shape)
        if self.lora_enabled:
            rows = ops.take(ops.convert_to_tensor(self.lora_embeddings_a), ids, axis=0)
            found = found + self.of_lora(ops.matmul(rows, self.lora_embeddings_b), found.dtype)
        return found
