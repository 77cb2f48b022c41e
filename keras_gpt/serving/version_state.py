"""One version of a model: from its folder to a loaded model, and to its end."""

import contextlib
import logging
import weakref
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_gpt.serving.errors import ServingError, code_name
from keras_gpt.serving.servable import Servable
from keras_gpt.serving.warmup import warm_up

_log = logging.getLogger("keras_gpt.serving")


class VersionState:
    """What became of one version that was to be served.

    Args:
        path: the version's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # START, LOADING, AVAILABLE, UNLOADING or END: TensorFlow Serving's names.
        self.state = "START"
        self.servable: Servable | None = None
        # "OK", or the name of the status code that loading ended with, and why.
        self.error_code = "OK"
        self.error_message = ""

    def load(self, name: str, number: int, warmup: bool) -> None:
        """Load, and warm up where asked; a broken model becomes a state and a line in the log."""
        self.state = "LOADING"
        try:
            servable = Servable(name, number, self.path)
            if warmup:
                warm_up(servable, self.path)
        except Exception as error:  # a broken file can make TensorFlow raise nearly anything
            self.error_code, self.error_message = _reason(error)
            self.state = "END"
            _log.error("model %s version %d could not be loaded: %s", name, number, error)
            return
        self.servable = servable
        self.state = "AVAILABLE"

    def unload(self) -> None:
        """Let go of the model. It ends when the last request that uses it has been answered."""
        servable, self.servable = self.servable, None
        if servable is not None:
            self.state = "UNLOADING"
            # Whoever answers a request holds the servable; when nobody does, it is finalized.
            weakref.finalize(servable, self._end).atexit = False

    def _end(self) -> None:
        self.state = "END"


def fingerprint(folder: Path) -> Any:
    """Give what tells whether files of a folder were added, removed or written."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.rglob("*")):
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def _reason(error: Exception) -> tuple[str, str]:
    """The status code and the message that a failed load ends with."""
    if isinstance(error, ServingError):
        return error.code, error.message
    if isinstance(error, FileNotFoundError):
        return "NOT_FOUND", str(error)
    if isinstance(error, tf.errors.OpError):
        return code_name(error.error_code), str(error)
    return "UNKNOWN", str(error)
