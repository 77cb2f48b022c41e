"""OpenAI's API in front of a GPT that answers many requests at a time.

Nothing heavy is loaded before one of the names is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_gpt.serving.openai.app import create_app
    from keras_gpt.serving.openai.server import serve
    from keras_gpt.serving.openai.service import Limits

__all__ = ["Limits", "create_app", "serve"]

_HOMES = {
    "Limits": "keras_gpt.serving.openai.service",
    "create_app": "keras_gpt.serving.openai.app",
    "serve": "keras_gpt.serving.openai.server",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` when it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
