"""Layers whose matrices may lie as integers, made from their floats or built so from the start."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_gpt.layers.integers import packed_shapes, rounded, rounded_4
from keras_gpt.matrix_order import as_in_files

# Modes whose rounding and products are ours, each with one setting only; others are Keras' own.
OUR_MODES = ("int8", "int4")

# What lies beside the integers, in the order of `rounded` and `rounded_4`.
_BESIDE = {"int8": ("scale",), "int4": ("multipliers", "offsets", "scale")}


class Matrix(NamedTuple):
    """A matrix of a layer as its floats lie, which a rounded layer takes too.

    Args:
        attribute: where the layer has it, and its integers later.
        shape: of the floats.
        turned: whether the integers lie the other way round: what is rounded together, the weights
            of one output, is a row of them.
    """

    attribute: str
    shape: tuple[int, int]
    turned: bool


class RoundedMatrices(keras.layers.Layer):
    """What a layer needs whose matrices become integers in the modes "int8" and "int4".

    With the dtype policy "int8_from_float32" it is built with integers, which are zeros until
    `keep` or a file gives them values.
    """

    dtype_policy: Any

    def matrices(self) -> dict[str, Matrix]:
        """Give the names of the matrices, as their floats are called."""
        raise NotImplementedError

    def stored(self, name: str) -> list[Any]:
        """Give the variables of a rounded matrix in the order of `rounded` and `rounded_4`."""
        beside = _BESIDE[self.quantization_mode]
        integers = getattr(self, self.matrices()[name].attribute)
        return [integers, *(getattr(self, f"{name}_{each}") for each in beside)]

    def keep(self, name: str, values: np.ndarray) -> None:
        """Round floats and keep the integers, in a layer that is built.

        Args:
            name: of the matrix.
            values: its floats, of the shape that `matrices` says; a part is read at a time. They
                are rounded from the dtype that the layer's floats would have.
        """
        values = values.T if self.matrices()[name].turned else values
        round_ = rounded if self.quantization_mode == "int8" else rounded_4
        for variable, value in zip(
            self.stored(name), round_(values, self.variable_dtype), strict=True
        ):
            variable.assign(value)

    def of_lora(self, delta: Any, dtype: Any) -> Any:
        """Scale what the product of the LoRA matrices adds to a result of `dtype`."""
        return ops.cast(self.lora_alpha / self.lora_rank * delta, dtype)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Replace the weights by integers; see the class."""
        if mode not in OUR_MODES:
            super().quantize(mode, type_check=False, config=config)
            return
        policy: Any = rounding_policy(self.dtype_policy, mode)
        floats = {}
        for name, matrix in self.matrices().items():
            variable = getattr(self, matrix.attribute)
            value = ops.convert_to_numpy(ops.stop_gradient(variable))
            floats[name] = as_in_files(variable, value)
            delattr(self, matrix.attribute)
        self.quantized_build(None, mode, config)
        self.dtype_policy = policy
        for name in list(floats):
            self.keep(name, floats.pop(name))

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Add LoRA's matrices, which floats are multiplied with as one: no copy has them."""
        super().enable_lora(*args, **kwargs)
        if self.quantization_mode not in OUR_MODES:
            for matrix in self.matrices().values():
                getattr(self, matrix.attribute).may_be_reordered = False

    @property
    def variable_serialization_spec(self) -> dict[str | None, list[str]]:
        """Say what a `.keras` file holds in each mode, and in which order."""
        spec = super().variable_serialization_spec
        beside = [f"{name}_{each}" for name in self.matrices() for each in _BESIDE["int4"]]
        return {**spec, "int4": [*spec[None], *beside]}

    def _int8_build(self, shape: Any, config: Any = None) -> None:
        for name, matrix in self.matrices().items():
            self._add_integers(matrix.attribute, name, _as_stored(matrix))
            getattr(self, matrix.attribute).may_be_reordered = True  # see `matrix_order`
            self._add_scale(name, matrix)

    def _int4_build(self, shape: Any, config: Any = None) -> None:
        for name, matrix in self.matrices().items():
            packed, groups = packed_shapes(*_as_stored(matrix))
            self._add_integers(matrix.attribute, name, packed)
            for each in ("multipliers", "offsets"):
                self._add_integers(f"{name}_{each}", f"{name}_{each}", groups)
            self._add_scale(name, matrix)

    def _add_integers(self, attribute: str, name: str, shape: tuple[int, int]) -> None:
        weight = self.add_weight(
            name=name, shape=shape, initializer="zeros", dtype="int8", trainable=False
        )
        setattr(self, attribute, weight)

    def _add_scale(self, name: str, matrix: Matrix) -> None:
        # One number a row is too few to save memory with, and half precision would be felt.
        scale = self.add_weight(
            name=f"{name}_scale",
            shape=_as_stored(matrix)[:1],
            initializer="ones",
            dtype="float32",
            autocast=False,
            trainable=False,
        )
        setattr(self, f"{name}_scale", scale)


def rounding_policy(policy: Any, mode: str) -> Any:
    """Give the dtype policy of a layer in `mode` whose results have the dtype that they had."""
    return keras.dtype_policies.get(f"{mode}_from_{policy.name}")


def _as_stored(matrix: Matrix) -> tuple[int, int]:
    first, second = matrix.shape
    return (second, first) if matrix.turned else (first, second)
