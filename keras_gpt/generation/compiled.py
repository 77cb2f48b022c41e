"""Compiling a function of a model under whichever backend Keras runs on."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gpt.generation.any_length import AnyLength
from keras_gpt.generation.protocol import Decoder
from keras_gpt.key_values import KeyValues
from keras_gpt.onednn import is_for_server, traced_for_xla
from keras_gpt.processor import tune_xla

# What one thread makes and compiles, another must not put a new one in the place of.
_making = threading.RLock()


def compiled(function: Callable[..., Any], model: Decoder) -> Callable[..., Any]:
    """Compile `function`, which reads the model's variables, once for each shape of its arguments.

    No argument may be what XLA has to know while it compiles, such as where `ops.slice` begins:
    TensorFlow would have it compile for each value.

    Args:
        function: takes and gives (nested) tensors.
        model: whose variables it reads. Later changes of their values are seen.

    Returns:
        A function with the same arguments. On TensorFlow it can be called inside another
        `tf.function`, and so goes into a SavedModel.
    """
    if keras.backend.backend() == "tensorflow":
        return _compiled_by_tensorflow(function)
    if keras.backend.backend() == "jax":
        import jax

        def pure(values: list[Any], *args: Any) -> Any:
            mapping = list(zip(model.variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return function(*args)

        pure_compiled = jax.jit(pure)
        return lambda *args: pure_compiled([v.value for v in model.variables], *args)
    return function


@functools.cache
def compiled_for_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of a module, which reads no variables, once for each shape for all models.

    Args:
        function: takes and gives (nested) tensors.

    Returns:
        A function with the same arguments, as from `compiled`.
    """
    if keras.backend.backend() == "tensorflow":
        return _compiled_by_tensorflow(function)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def _compiled_by_tensorflow(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    tune_xla()

    def traced(*args: Any) -> Any:
        if tf.config.functions_run_eagerly():  # nothing is compiled then
            return function(*args)
        with traced_for_xla():
            return function(*args)

    # autograph would rewrite Python that has nothing to convert.
    program = tf.function(traced, jit_compile=True, autograph=False)
    # Called from graphs alone: TensorFlow would compile it once more for calls from Python.
    return tf.function(lambda *args: program(*args), autograph=False)


def assembled(function: Callable[..., Any], model: Decoder) -> Callable[..., Any]:
    """Make one function of one that calls compiled functions.

    Args:
        function: takes and gives (nested) tensors.
        model: whose variables it reads, as for `compiled`.

    Returns:
        A function with the same arguments: on TensorFlow a graph of the compiled functions; on
        JAX one compiled function, which holds them all.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return AnyLength(tf.function(function, autograph=False))
    return compiled(function, model)


def looped(
    go_on: Callable[..., Any], body: Callable[..., tuple[Any, ...]], is_one_program: bool
) -> Callable[..., tuple[Any, ...]]:
    """Make a loop of calls of compiled functions, which costs one call of Python on TensorFlow.

    Args:
        go_on: takes the constants and the state; gives a bool scalar.
        body: takes the constants and the state; gives the next state.
        is_one_program: whether TensorFlow has XLA compile the loop as a whole. Each turn of a graph
            costs a millisecond or so beside what the programs take (tests/benchmarks/RESULTS.md);
            but all that the body calls is compiled for each shape of the arguments again.

    Returns:
        A function of the constants (a tuple of nested tensors) and of the state (tensors, and lists
        of layers' `KeyValues`), which gives the last state.
    """

    def loop(constants: tuple[Any, ...], state: tuple[Any, ...]) -> tuple[Any, ...]:
        while bool(go_on(*constants, *state)):
            state = body(*constants, *state)
        return state

    if keras.backend.backend() != "tensorflow":
        return loop
    import tensorflow as tf

    def graph(constants: tuple[Any, ...], state: tuple[Any, ...]) -> tuple[Any, ...]:
        end = tf.while_loop(
            lambda *passed: go_on(*constants, *_whole(passed)),
            lambda *passed: _passed_on(body(*constants, *_whole(passed))),
            _passed_on(state),
        )
        return _whole(end)

    if is_one_program:
        return AnyLength(_compiled_by_tensorflow(graph))
    return AnyLength(tf.function(graph, autograph=False))


def _passed_on(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a state as a loop passes it on: keys and values of one row without the axis of rows.

    With it XLA writes new keys and values twice, for the product and for the next turn.
    """
    return _with_parts(state, lambda part: ops.squeeze(part, 0) if part.shape[0] == 1 else part)


def _whole(passed: tuple[Any, ...]) -> tuple[Any, ...]:
    return _with_parts(
        passed, lambda part: ops.expand_dims(part, 0) if len(part.shape) == 3 else part
    )


def _with_parts(state: tuple[Any, ...], change: Callable[[Any], Any]) -> tuple[Any, ...]:
    def changed(value: Any) -> Any:
        return (
            [KeyValues(*map(change, layer)) for layer in value]
            if isinstance(value, list)
            else value
        )

    return tuple(map(changed, state))


def num_programs(function: Any) -> int:
    """Say for how many shapes TensorFlow compiled a function of this module: to see that none is new.

    Args:
        function: from `compiled`, `compiled_for_all`, `assembled` or `looped`; of anything else the
            number is 0.
    """
    if isinstance(function, AnyLength):
        return function.num_programs
    count = getattr(function, "experimental_get_tracing_count", None)
    return 0 if count is None else int(count())


def kept_with(model: Decoder, name: str, make: Callable[[], Any]) -> Any:
    """Give what `make` gave for this model, and make it again when the model's weights were replaced.

    Quantization and LoRA put other variables in the place of those that a function was traced with.
    Threads that ask at the same time are given the same. What is traced for a server is not kept:
    an export asks once.

    Args:
        model: keeps it.
        name: an attribute of the model.
        make: is called when there is nothing yet, or for other variables.
    """
    if is_for_server():
        return make()
    with _making:
        variables = tuple(id(variable) for variable in model.variables)
        kept = getattr(model, name, None)
        if kept is None or kept.variables != variables:
            kept = _Kept(variables, make())
            setattr(model, name, kept)
        return kept.value


class _Kept:
    """A value, and the variables that it was made for. No tuple: Keras would look into one."""

    def __init__(self, variables: tuple[int, ...], value: Any) -> None:
        self.variables = variables
        self.value = value
