"""A SavedModel in a TensorFlow session of its own, which is how TensorFlow Serving holds one.

What is compiled for a model that TensorFlow's loader for Python loaded stays until the process ends, some
60 MB for each version of a tiny GPT. What is compiled in a session goes with the session.
"""

import functools
import gc
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from keras_gpt.memory import give_back_memory
from keras_gpt.processor import tune_xla


class LoadedGraph:
    """A loaded graph. Its memory is free when nobody holds it or a function of it any more.

    Args:
        path: a SavedModel's folder.
        tag: which of its graphs.

    Raises:
        OSError, tf.errors.OpError: TensorFlow cannot load what the folder holds.
    """

    def __init__(self, path: str | os.PathLike[str], tag: str) -> None:
        tune_xla()
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            # What tf.compat.v1.saved_model.load calls, without its warning that it is old.
            try:
                SavedModelLoader(os.fspath(path)).load(self._session, [tag])
            except ValueError as error:
                if not (Path(path) / "variables" / "variables.index").is_file():
                    raise FileNotFoundError(f"the variables are missing: {error}") from error
                raise
        # At the end of the process too: what is left of an open session then complains.
        weakref.finalize(self, self._session.close)

    def function(
        self, inputs: Mapping[str, str], outputs: Mapping[str, str]
    ) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        """Make a function of a part of the graph. It may be called by several threads at a time.

        Args:
            inputs: the names of tensors, such as "x:0", by the names of the arguments.
            outputs: the names of tensors by the names of the results.

        Returns:
            A function that takes every input, and gives every output.
        """
        # The public make_callable compares shapes with the placeholders', which TensorFlow Serving
        # does not do: its own half-plus-two takes (batch,) for (batch, 1).
        run = self._session._make_callable_from_options(
            config_pb2.CallableOptions(feed=inputs.values(), fetch=outputs.values())
        )
        return functools.partial(self._call, run, tuple(inputs), tuple(outputs))

    def _call(
        self,
        run: Callable[..., Sequence[Any]],
        inputs: Sequence[str],
        outputs: Sequence[str],
        arrays: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        values = run(*[arrays[name] for name in inputs])
        return {name: np.asarray(each) for name, each in zip(outputs, values, strict=True)}


def free_memory() -> None:
    """Free what loaded graphs that nobody holds any more left, and give it back to the system."""
    gc.collect()  # a graph refers to itself
    give_back_memory()
