"""Measuring a model: perplexity of text, and tasks whose published numbers can be checked."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_gpt.evaluation.lm_eval_adapter import KerasGPTLM
    from keras_gpt.evaluation.run import evaluate
    from keras_gpt.evaluation.sliding_window import perplexity

__all__ = ["KerasGPTLM", "evaluate", "perplexity"]

# Found on first use: lm-eval is an extra.
_HOMES = {"KerasGPTLM": "lm_eval_adapter", "evaluate": "run", "perplexity": "sliding_window"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
