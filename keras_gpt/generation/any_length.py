"""Tracing a TensorFlow function once for all lengths of the caches that it is called with.

XLA compiles a program for each length all the same. But the graph that Python makes of a pass is the
same for all of them, and for a model of many layers it takes as long to make as to compile.
"""

from collections.abc import Callable
from typing import Any

from keras_gpt.key_values import KeyValues


class AnyLength:
    """A `tf.function` that is not traced again for keys and values of another length.

    In a graph it is the function itself: there the lengths stay known, and so do those of what it
    gives.

    Args:
        function: takes (nested) tensors, among them `KeyValues`.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._programs: dict[Any, Callable[..., Any]] = {}  # by the shapes of the arguments
        self._traces: dict[Any, Callable[..., Any]] = {}  # by these without the lengths

    @property
    def num_programs(self) -> int:
        """For how many shapes XLA compiled it."""
        return len(self._programs)

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        import tensorflow as tf

        if not tf.executing_eagerly():
            return self._function(*args)
        shapes = _shapes(args)
        program = self._programs.get(shapes)
        if program is None:
            specs = _specs(args)
            trace = _shapes(specs)
            if trace not in self._traces:
                self._traces[trace] = self._function.get_concrete_function(*specs)
            program = self._programs[shapes] = self._traces[trace]
        return program(*args)


def _shapes(value: Any) -> Any:
    """Tell what two calls must have in common, as a key of a dictionary."""
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
