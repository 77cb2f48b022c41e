"""Writing a `.gguf` file, which llama.cpp and the programs around it read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import split_tensors
from keras_gpt.checkpoints.gguf_families import architecture_of, tensor_map
from keras_gpt.checkpoints.gguf_rope import FACTORS, llama3_factors, write_rope
from keras_gpt.checkpoints.gguf_tokenizer import write_tokenizer
from keras_gpt.config import GPTConfig
from keras_gpt.files import require_free_file, whole_file
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

DTYPES = ("f32", "f16", "q8_0")


def save_gguf(
    path: str | os.PathLike[str],
    config: GPTConfig,
    variables: Sequence[Any],
    tokenizer: "Tokenizer | None",
    settings: GenerationSettings,
    dtype: str = "f16",
    overwrite: bool = False,
) -> None:
    """Write weights, tokenizer and chat template into one gguf file.

    Args:
        path: the file; it appears whole or not at all.
        config: the model's.
        variables: the model's Keras variables.
        tokenizer: goes along where there is one; byte-level.
        settings: stop ids, chat template and what is suggested for sampling go along.
        dtype: of the matrices, "f32", "f16" or "q8_0" (8 bits, and a scale for each 32 numbers);
            vectors and position tables are always float32, as llama.cpp has them.
        overwrite: whether an older file may be replaced.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: the format has no such architecture, tokenizer or `dtype`, or a weight is too
            large for `dtype`.
    """
    import gguf

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}. Received: dtype={dtype!r}")
    target = Path(path)
    require_free_file(target, overwrite)
    architecture = architecture_of(config)
    mapping = tensor_map(config)
    factors = llama3_factors(config)
    with whole_file(target) as scratch:
        writer = gguf.GGUFWriter(scratch, architecture)
        try:
            _write_settings(writer, config, architecture, target.stem, dtype)
            write_tokenizer(writer, tokenizer, settings, config.vocab_size)
            for parts in mapping.values():
                for part in parts:
                    kind, shape, size = _stored(part.shape, part.name, dtype)
                    writer.add_tensor_info(part.name, shape, np.dtype("uint8"), size, kind)
            if factors is not None:
                kind, shape, size = _stored(factors.shape, FACTORS, dtype)
                writer.add_tensor_info(FACTORS, shape, np.dtype("uint8"), size, kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor, ours in split_tensors(mapping, variables).items():
                kind, _, _ = _stored(ours.shape, tensor, dtype)
                full = np.ascontiguousarray(ours.read(), "float32")
                _require_range(tensor, full, kind.name)
                writer.write_tensor_data(gguf.quantize(full, kind))
            if factors is not None:
                writer.write_tensor_data(factors.view("uint8"))
        finally:
            writer.close()


def _stored(shape: tuple[int, ...], name: str, dtype: str) -> tuple[Any, tuple[int, ...], int]:
    """Give the number format of a tensor, its shape in bytes, and its size in bytes."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    kind = {"f32": kinds.F32, "f16": kinds.F16, "q8_0": kinds.Q8_0}[dtype]
    if len(shape) == 1 or name == "position_embd.weight":
        kind = kinds.F32
    elif kind == kinds.Q8_0 and shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = kinds.F16  # a row must be whole blocks
    byte_shape = gguf.quant_shape_to_byte_shape(shape, kind)
    return kind, byte_shape, int(np.prod(byte_shape))


def _require_range(name: str, value: np.ndarray, kind: str) -> None:
    """Check that no number becomes infinite; q8_0 has a half-precision scale for each block."""
    limit = {"F16": 65504.0, "Q8_0": 127 * 65504.0}.get(kind)
    if limit is None:
        return
    largest = max(float(value.max()), -float(value.min()))
    if largest > limit:
        raise ValueError(
            f"dtype must have room for every weight; {kind} ends at {limit:g}, so use dtype='f32'. "
            f"Received: {name} with {largest:g}"
        )


def _write_settings(
    writer: Any, config: GPTConfig, architecture: str, name: str, dtype: str
) -> None:
    import gguf

    kinds = gguf.LlamaFileType
    writer.add_name(name)
    writer.add_type("model")
    writer.add_file_type(
        {"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0}[dtype]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.embedding_dim)
    writer.add_feed_forward_length(config.feed_forward_dim)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.norm_epsilon)
        return
    writer.add_head_count_kv(config.key_value_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rotary_base)
    writer.add_rope_dimension_count(config.head_dim)
    write_rope(writer, config.rotary_scaling)
