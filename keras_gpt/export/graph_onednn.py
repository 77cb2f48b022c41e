"""Whether a server can multiply by oneDNN, which the graph finds out when the server loads it.

An exported model has its programs twice where oneDNN would make them faster: with calls of it, and as
every server can run them. The server's XLA may not have the call, or the processor not the
instructions, without which the call takes longer, gives wrong sums or ends the process.
"""

from collections.abc import Callable, Collection
from typing import Any

import keras
import tensorflow as tf

from keras_gpt.onednn import INSTRUCTIONS, is_right, traced_for_server
from keras_gpt.processor import tune_xla

# Linux says there what a processor can do; elsewhere there is no such file.
_PROCESSORS = "/proc/cpuinfo"


class OneDNN(tf.saved_model.experimental.TrackableResource):
    """A bool that a server sets when it loads the model.

    Args:
        dtypes: that are to be multiplied, of `onednn.INSTRUCTIONS`.
    """

    def __init__(self, dtypes: Collection[str]) -> None:
        super().__init__()
        self._dtypes = sorted(dtypes)
        tune_xla()  # asking has XLA begin to work
        self._initialize()

    def is_here(self) -> Any:
        """Say whether all dtypes can be multiplied, a bool scalar, in the graph of a request."""
        can = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=tf.bool)
        # With a GPU the programs run there, and it is another index.
        return can & (tf.raw_ops.DeviceIndex(device_names=["CPU"]) == 0)

    def _create_resource(self) -> Any:
        name = "keras_gpt_onednn_" + "_".join(self._dtypes)
        return tf.raw_ops.VarHandleOp(dtype=tf.bool, shape=[], shared_name=name)

    def _initialize(self) -> None:
        can = tf.constant(True)
        for dtype in self._dtypes:
            # Without the instructions it must not even be tried.
            can = tf.cond(
                can & _has_instructions(INSTRUCTIONS[dtype]),
                lambda dtype=dtype: _gives_right_sums(dtype),
                lambda: tf.constant(False),
            )
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=can)


def _has_instructions(name: str) -> Any:
    def asked() -> Any:
        lines = tf.data.TextLineDataset([_PROCESSORS])
        flags = lines.filter(lambda line: tf.strings.regex_full_match(line, r"flags\s*:.*")).take(1)
        return _any(flags.map(lambda line: tf.strings.regex_full_match(line, rf".*\b{name}\b.*")))

    return _false_if_it_fails(asked)


def _gives_right_sums(dtype: str) -> Any:
    program = tf.function(lambda: is_right(dtype), jit_compile=True, autograph=False)
    return _false_if_it_fails(program)


def _false_if_it_fails(function: Callable[[], Any]) -> Any:
    # Nothing but a data set goes on after an error. This one has one element, and so one error.
    return _any(tf.data.Dataset.range(1).map(lambda _: function()).ignore_errors())


def _any(found: tf.data.Dataset) -> Any:
    return found.reduce(tf.constant(False), lambda before, each: before | each)


def onednn_for(model: Any) -> OneDNN | None:
    """Give what asks a server for all that a model's programs would call; None where they call nothing."""
    dtypes = {model.compute_dtype, *(each.dtype for each in model.variables)}
    wanted = INSTRUCTIONS.keys() & {keras.backend.standardize_dtype(each) for each in dtypes}
    return OneDNN(wanted) if wanted else None


def either(make: Callable[[], Any], onednn: OneDNN | None) -> Callable[[Callable[..., Any]], Any]:
    """Make compiled functions as every server can run them, and with calls of oneDNN.

    Args:
        make: makes (nested) functions.
        onednn: None where nothing would call it.

    Returns:
        A function for the graph of a request: it takes one of what `make` makes, and gives what that
        gives of the functions that suit the server.
    """
    plain = make()
    if onednn is None:
        return lambda run: run(plain)
    with traced_for_server():
        calling = make()

    def choose(run: Callable[..., Any]) -> Any:
        def with_calls() -> Any:
            with traced_for_server():
                return run(calling)

        return tf.cond(onednn.is_here(), with_calls, lambda: run(plain))

    return choose
