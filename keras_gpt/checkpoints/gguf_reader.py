"""Reading a `.gguf` file of llama.cpp: any of its number formats, turned into plain numbers."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import Checkpoint, StoredTensor, map_tensors
from keras_gpt.checkpoints.config_checks import naming
from keras_gpt.checkpoints.gguf_families import read_config, tensor_map
from keras_gpt.checkpoints.gguf_header import TensorPlace, read_header
from keras_gpt.checkpoints.gguf_rope import FACTORS, llama3_of_factors
from keras_gpt.checkpoints.gguf_tokenizer import read_settings, read_tokenizer
from keras_gpt.config import GPTConfig


def read_gguf(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a gguf file of the GPT-2 or the Llama architecture.

    A SentencePiece tokenizer is left out, with a warning; the model then takes token ids.

    Args:
        path: the file. Quantized tensors are turned into float32 one by one, when they are read.

    Raises:
        ValueError: it is damaged, or its architecture, a setting or its tokenizer is not supported.
        OSError: it cannot be read.
    """
    file = Path(path)
    fields, places = read_header(file)
    with naming(file):
        config = read_config(fields, places)
        _require_readable(places)
        tokenizer = read_tokenizer(fields)
        settings = read_settings(fields, config.vocab_size)
    stored = {
        name: StoredTensor(place.shape, _reader(file, place)) for name, place in places.items()
    }
    config = _read_factors(config, stored)
    return Checkpoint(
        source=str(file),
        model="GPT",
        config=config.to_dict(),
        tensors=map_tensors(tensor_map, config, stored, str(file)),
        tokenizer=tokenizer,
        settings=settings,
    )


def _require_readable(places: Mapping[str, TensorPlace]) -> None:
    """Check, before any weight is used, that the library can turn every tensor into numbers."""
    import gguf

    names: dict[Any, str] = {}
    for name, place in places.items():
        names.setdefault(place.kind, name)
    for kind, name in names.items():
        one_block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), "uint8")
        try:
            gguf.dequantize(one_block, kind)
        except NotImplementedError:
            raise ValueError(
                f"the tensor {name} must be kept as floating-point numbers, or as blocks that the "
                f"gguf library can turn into them. Received: type {kind.name}"
            ) from None


def _reader(file: Path, place: TensorPlace) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        import gguf

        raw = np.fromfile(file, "uint8", count=place.size, offset=place.start)
        rows = raw.reshape(*place.shape[:-1], -1)  # (..., bytes of a row)
        if place.kind == gguf.GGMLQuantizationType.F32:
            return rows.view("<f4")
        if place.kind == gguf.GGMLQuantizationType.F16:
            return rows.view("<f2")
        # Damaged scales may be infinite; what they give is not worth a warning for each block.
        with np.errstate(all="ignore"):
            return gguf.dequantize(rows, place.kind)

    return read


def _read_factors(config: GPTConfig, stored: dict[str, StoredTensor]) -> GPTConfig:
    """Turn the factors of rotary frequencies into a scaling, and drop them; all 1 are none.

    Those that are not understood stay, as a tensor that the model has not.
    """
    if FACTORS not in stored:
        return config
    factors = stored[FACTORS].read().reshape(-1)
    scaling = llama3_of_factors(factors, config)
    if scaling is not None or np.all(factors == 1):
        del stored[FACTORS]
    return config if scaling is None else dataclasses.replace(config, rotary_scaling=scaling)
