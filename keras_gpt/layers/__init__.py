"""The layers that a GPT is made of, written with keras.ops alone."""

from keras_gpt.layers.attention import CausalSelfAttention
from keras_gpt.layers.block import Block
from keras_gpt.layers.feed_forward import FeedForward
from keras_gpt.layers.masks import attention_mask, branch_mask, token_positions
from keras_gpt.layers.normalization import make_norm
from keras_gpt.layers.positions import (
    PositionEmbedding,
    RotaryTables,
    drop_turned,
    rotary_tables,
    rotate,
)
from keras_gpt.layers.quantized import Dense, TokenEmbedding
from keras_gpt.layers.rounding import OUR_MODES, RoundedMatrices, rounding_policy

__all__ = [
    "OUR_MODES",
    "Block",
    "CausalSelfAttention",
    "Dense",
    "FeedForward",
    "PositionEmbedding",
    "RotaryTables",
    "RoundedMatrices",
    "TokenEmbedding",
    "attention_mask",
    "branch_mask",
    "drop_turned",
    "make_norm",
    "rotary_tables",
    "rotate",
    "rounding_policy",
    "token_positions",
]
