"""Text from a model: cache, sampling, the decode loop, and scores."""

from keras_gpt.generation.answers import Answer
from keras_gpt.generation.attention import attention_weights
from keras_gpt.generation.constraints import Constraint
from keras_gpt.generation.embed import embed
from keras_gpt.generation.engine import Engine
from keras_gpt.generation.generate import generate, stream
from keras_gpt.generation.requests import QueueFullError, Request
from keras_gpt.generation.score import score
from keras_gpt.generation.warmup import warmup

__all__ = [
    "Answer",
    "Constraint",
    "Engine",
    "QueueFullError",
    "Request",
    "attention_weights",
    "embed",
    "generate",
    "score",
    "stream",
    "warmup",
]
