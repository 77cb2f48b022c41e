"""OpenAI's original GPT-1 release: `params_0.npy` to `params_9.npy`, their shapes, and the tokenizer."""

import itertools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import Checkpoint, Layout, Part, StoredTensor, map_tensors
from keras_gpt.checkpoints.json_files import read_json_value
from keras_gpt.config import GPTConfig

# The release's model has heads of this width; the files do not say it.
_HEAD_DIM = 64
_SHAPES, _ENCODER, _MERGES = "params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"
# The matrices were one-wide convolutions.
_CONVOLUTION = Layout(lambda tensor: tensor[0], lambda tensor: tensor[None])
_PER_LAYER = 12


def read_openai_gpt1(folder: str | os.PathLike[str]) -> Checkpoint:
    """Open the folder `model` of OpenAI's finetune-transformer-lm.

    The parameters are one long row of float32, cut into files at no particular place; the shapes
    say how to take it apart: positions, tokens, and twelve tensors a layer.

    Args:
        folder: holds `params_shapes.json`, `params_*.npy`, `encoder_bpe_40000.json` and
            `vocab_40000.bpe`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the numbers are not as many as the shapes say.

    Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".
    """
    path = Path(folder)
    shapes = _read_shapes(path / _SHAPES)
    config = _config(shapes, path)
    parts = [part for parts in _tensors(config).values() for part in parts]
    places = _places(shapes)
    pieces = _open(path, places[-1][1])
    stored = {
        part.name: StoredTensor(shape, _reader(pieces, start, end, shape))
        for part, shape, (start, end) in zip(parts, shapes, places, strict=True)
    }
    return Checkpoint(
        source=str(path),
        model="GPT",
        config=config.to_dict(),
        tensors=map_tensors(_tensors, config, stored, str(path)),
        tokenizer=_tokenizer(path),
    )


def _read_shapes(file: Path) -> list[tuple[int, ...]]:
    shapes = read_json_value(file)
    good = isinstance(shapes, list) and all(
        isinstance(shape, list) and shape and all(isinstance(n, int) and n > 0 for n in shape)
        for shape in shapes
    )
    if not good or len(shapes) < 2 + _PER_LAYER or (len(shapes) - 2) % _PER_LAYER:
        raise ValueError(
            f"{file} must list the shapes of two embeddings and of {_PER_LAYER} tensors a layer. "
            f"Received: {len(shapes) if isinstance(shapes, list) else type(shapes).__name__}"
        )
    return [tuple(shape) for shape in shapes]


def _config(shapes: list[tuple[int, ...]], folder: Path) -> GPTConfig:
    positions, tokens, inner = shapes[0], shapes[1], shapes[8]
    if len(positions) != 2 or len(tokens) != 2 or positions[1] % _HEAD_DIM:
        raise ValueError(
            f"{folder / _SHAPES} must begin with the embeddings of positions and tokens, of a width "
            f"that is a multiple of {_HEAD_DIM}, the release's width of a head. Received: "
            f"{positions} and {tokens}"
        )
    return GPTConfig(
        vocab_size=tokens[0],
        embedding_dim=positions[1],
        num_heads=positions[1] // _HEAD_DIM,
        feed_forward_dim=inner[-1],
        num_layers=(len(shapes) - 2) // _PER_LAYER,
        context_length=positions[0],
        norm_placement="post",
        embedding_dropout=0.1,
        attention_dropout=0.1,
        residual_dropout=0.1,
    )


def _places(shapes: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _open(folder: Path, total: int) -> list[np.ndarray]:
    """Map the files into memory, in the order of their numbers."""
    found = {
        int(match[1]): file
        for file in folder.glob("params_*.npy")
        if (match := re.fullmatch(r"params_(\d+)\.npy", file.name))
    }
    # Not a list of all up to the highest, which a file's name may set at will.
    due = next((place for place, number in enumerate(sorted(found)) if place != number), None)
    if due is not None or not found:
        raise FileNotFoundError(
            f"the folder must hold params_0.npy and those that follow. Received: no "
            f"params_{due or 0}.npy in {folder}"
        )
    pieces: list[np.ndarray] = []
    for number in sorted(found):
        try:
            piece = np.lib.format.open_memmap(found[number], mode="r")
        except Exception as error:  # what a damaged header raises has no common class
            raise ValueError(
                f"{found[number]} is damaged or cut short ({error}); download it again"
            ) from error
        if piece.ndim != 1 or piece.dtype != np.float32:
            raise ValueError(
                f"{found[number]} must be one row of float32. Received: shape {piece.shape}, dtype "
                f"{piece.dtype}"
            )
        pieces.append(piece)
    size = sum(len(piece) for piece in pieces)
    if size != total:
        raise ValueError(
            f"the params_*.npy of {folder} must hold the {total} numbers that {_SHAPES} describes: "
            f"is one missing? Received: {size} in {len(pieces)} files"
        )
    return pieces


def _reader(
    pieces: list[np.ndarray], start: int, end: int, shape: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        found, first = [], 0
        for piece in pieces:
            found.append(piece[max(0, start - first) : max(0, end - first)])
            first += len(piece)
        return np.concatenate(found).reshape(shape)

    return read


def _tensors(config: GPTConfig) -> dict[str, tuple[Part, ...]]:
    """List the tensors in the order in which the release keeps them."""
    dim, inner = config.embedding_dim, config.feed_forward_dim
    mapping: dict[str, tuple[Part, ...]] = {
        "position_embedding/table": (Part("positions", (config.context_length, dim), dim),),
        "token_embedding/embeddings": (Part("tokens", (config.vocab_size, dim), dim),),
    }

    def vector(name: str, width: int) -> None:
        mapping[name] = (Part(name, (width,), width),)

    def dense(name: str, rows: int, columns: int) -> None:
        kernel = f"{name}/kernel"
        mapping[kernel] = (Part(kernel, (1, rows, columns), columns, _CONVOLUTION),)
        vector(f"{name}/bias", columns)

    def norm(name: str) -> None:
        vector(f"{name}/gamma", dim)
        vector(f"{name}/beta", dim)

    for layer in range(config.num_layers):
        block = f"block_{layer}"
        dense(f"{block}/attention/qkv", dim, 3 * dim)
        dense(f"{block}/attention/projection", dim, dim)
        norm(f"{block}/attention_norm")
        dense(f"{block}/feed_forward/up", dim, inner)
        dense(f"{block}/feed_forward/down", inner, dim)
        norm(f"{block}/feed_forward_norm")
    return mapping


def _tokenizer(folder: Path) -> Any:
    from keras_gpt.tokenizers import Tokenizer

    for name in (_ENCODER, _MERGES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"the release's tokenizer needs {_ENCODER} and {_MERGES}. Received: no "
                f"{folder / name}"
            )
    return Tokenizer.from_files(folder / _ENCODER, folder / _MERGES, level="gpt1")
