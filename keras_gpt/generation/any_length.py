"""Tracing a TensorFlow function once for all lengths of the caches that it is called with.

XLA compiles a program for each length all the same. But the graph that Python makes of a pass is the
same for all of them, and for a model of many layers it takes as long to make as to compile.
"""

from collections.abc import Callable
from typing import Any

from keras_gpt.key_values import KeyValues


def for_any_length(function: Any) -> Callable[..., Any]:
    """Call a `tf.function` so that it is not traced again for keys and values of another length.

    Args:
        function: takes (nested) tensors, among them `KeyValues`.

    Returns:
        A function with the same arguments. In a graph the lengths stay known, and so do those of
        what it gives.
    """
    import tensorflow as tf

    traced: dict[Any, Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        if not tf.executing_eagerly():
            return function(*args)
        key = _shapes(args)
        if key not in traced:
            traced[key] = function.get_concrete_function(*_specs(args))
        return traced[key](*args)

    return call


def _shapes(value: Any) -> Any:
    """Tell what two calls must have in common, as a key of a dictionary."""
    if isinstance(value, KeyValues):
        return tuple((*part.shape[:2], part.shape[3], part.dtype) for part in value)
    if isinstance(value, (list, tuple)):
        return tuple(map(_shapes, value))
    return tuple(value.shape), value.dtype


def _specs(value: Any) -> Any:
    """Describe the arguments for a trace."""
    import tensorflow as tf

    if isinstance(value, KeyValues):
        return KeyValues(
            *[tf.TensorSpec([*part.shape[:2], None, part.shape[3]], part.dtype) for part in value]
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_specs, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_specs, value))
    return tf.TensorSpec(value.shape, value.dtype)
