"""GPT for Keras 3 and TensorFlow: from raw text to a trained, fine-tuned, exported and served model."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_gpt import data, evaluation, export, generation, metrics, serving, training
    from keras_gpt.config import GPTConfig
    from keras_gpt.models.classifier import GPTClassifier
    from keras_gpt.models.gpt import GPT
    from keras_gpt.tokenizers import Tokenizer

__version__ = "0.1.0"

_NAMES = {
    "GPT": "keras_gpt.models.gpt",
    "GPTClassifier": "keras_gpt.models.classifier",
    "GPTConfig": "keras_gpt.config",
    "Tokenizer": "keras_gpt.tokenizers.tokenizer",
}
# Loaded on first use: a program that only builds a model pays for no server and no data reader.
_ROOMS = ("data", "evaluation", "export", "generation", "metrics", "serving", "training")

__all__ = [
    "GPT",
    "GPTClassifier",
    "GPTConfig",
    "Tokenizer",
    "data",
    "evaluation",
    "export",
    "generation",
    "metrics",
    "serving",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"keras_gpt.{name}")
    raise AttributeError(f"module 'keras_gpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# `keras.saving.load_model` finds only classes that are registered, so `import keras_gpt` loads all
# that can stand in a saved model. The command line loads no model by itself: there the names come
# on first use, and `keras-gpt --help` does not wait for TensorFlow.
if os.path.splitext(os.path.basename(sys.argv[0]))[0] != "keras-gpt":
    for _module in (*_NAMES.values(), "keras_gpt.training.optimizer"):
        importlib.import_module(_module)
