"""Weights on disk: each format reads to a config and named tensors, and writes from them."""

from keras_gpt.checkpoints.checkpoint import (
    Checkpoint,
    Taker,
    load_weights,
    named_tensors,
    require_size,
    tensor_name,
)
from keras_gpt.checkpoints.huggingface_writer import save_huggingface
from keras_gpt.checkpoints.preset import read_preset, save_preset
from keras_gpt.checkpoints.sources import open_checkpoint

__all__ = [
    "Checkpoint",
    "Taker",
    "load_weights",
    "named_tensors",
    "open_checkpoint",
    "read_preset",
    "require_size",
    "save_huggingface",
    "save_preset",
    "tensor_name",
]
