"""OpenAI's original GPT-1 release: all weights in one row of numbers, cut into ten files."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_gpt.checkpoints.checkpoint import (
    Checkpoint,
    Part,
    StoredTensor,
    TensorMap,
    map_tensors,
)
from keras_gpt.checkpoints.openai_gpt2 import block_tensors, require_file
from keras_gpt.config import GPTConfig

_FILES = 10
_HEAD_DIM = 64
_TENSORS_OF_A_BLOCK = 12


def read_openai_gpt1(folder: Path, with_weights: bool = True) -> Checkpoint:
    """Open a folder of OpenAI's GPT-1 release.

    The release does not say how many attention heads there are. They are 64 wide, as in the model
    that was published (12 heads, 768 wide), so that width / 64 is their number.

    Args:
        folder: holds `params_shapes.json`, `params_0.npy` to `params_9.npy`,
            `encoder_bpe_40000.json` and `vocab_40000.bpe`.
        with_weights: whether the weights are wanted; without them their files are not looked at.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the files do not fit together.

    Example:
        >>> read_openai_gpt1(Path("finetune-transformer-lm/model")).config["num_layers"]
        12

    Source: the code that was released with "Improving Language Understanding by Generative
    Pre-Training" (2018), which says in what order the tensors lie.
    """
    from keras_gpt.tokenizers import Tokenizer

    file = folder / "params_shapes.json"
    shapes = _read_shapes(file)
    config = _config(shapes, file)
    mapping = _tensor_map(config)
    names = [part.name for parts in mapping.values() for part in parts]
    expected = [part.shape for parts in mapping.values() for part in parts]
    for name, shape, wanted in zip(names, shapes, expected, strict=True):
        if shape != wanted:
            raise ValueError(
                f"{file} must list the shapes of a GPT-1 that is {config.embedding_dim} wide. "
                f"Received: {list(shape)} where {list(wanted)} of {name} is due"
            )
    vocabulary, merges = folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe"
    for each in (vocabulary, merges):
        require_file(each)
    tensors: Mapping[str, StoredTensor] = {}
    if with_weights:
        pieces = _open_pieces(folder)
        stored = _cut(pieces, dict(zip(names, shapes, strict=True)), folder)
        tensors = map_tensors(mapping, stored, str(folder))
    return Checkpoint(
        source=str(folder),
        model="GPT",
        config=config.to_dict(),
        tensors=tensors,
        tokenizer=Tokenizer.from_files(vocabulary, merges, level="gpt1"),
    )


def _read_shapes(file: Path) -> list[tuple[int, ...]]:
    require_file(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error})") from error

    def is_shape(shape: object) -> bool:
        return isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)

    if not isinstance(content, list) or not all(is_shape(shape) for shape in content):
        raise ValueError(
            f"{file} must be a list of shapes, each a list of positive integers. Received: "
            f"{str(content)[:80]}"
        )
    return [tuple(shape) for shape in content]


def _config(shapes: Sequence[tuple[int, ...]], file: Path) -> GPTConfig:
    layers, rest = divmod(len(shapes) - 2, _TENSORS_OF_A_BLOCK)
    if layers < 1 or rest or any(len(shape) != 2 for shape in shapes[:2]):
        raise ValueError(
            f"{file} must list the position embedding, the token embedding and "
            f"{_TENSORS_OF_A_BLOCK} tensors a layer. Received: {len(shapes)} shapes, first "
            f"{[list(shape) for shape in shapes[:2]]}"
        )
    (context, width), (vocab_size, _) = shapes[:2]
    if width % _HEAD_DIM:
        raise ValueError(
            f"{file}: the heads of GPT-1 are {_HEAD_DIM} wide, so the embeddings' width must be "
            f"divisible by {_HEAD_DIM}. Received: a width of {width}"
        )
    return GPTConfig.preset(
        "gpt1",
        vocab_size=vocab_size,
        context_length=context,
        embedding_dim=width,
        num_heads=width // _HEAD_DIM,
        feed_forward_dim=4 * width,
        num_layers=layers,
    )


def _tensor_map(config: GPTConfig) -> TensorMap:
    """List the tensors in the order of the release."""
    dim = config.embedding_dim
    mapping = {
        "position_embedding/table": (Part("positions", (config.context_length, dim), dim),),
        "token_embedding/embeddings": (Part("tokens", (config.vocab_size, dim), dim),),
    }
    for layer in range(config.num_layers):
        mapping |= block_tensors(config, layer)
    return mapping


def _open_pieces(folder: Path) -> list[np.ndarray]:
    files = [folder / f"params_{number}.npy" for number in range(_FILES)]
    for file in files:
        require_file(file)
    pieces = []
    for file in files:
        try:
            # Unlike np.load, this never takes the file for a pickle or an archive.
            piece = np.lib.format.open_memmap(file, mode="r")
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged or cut short ({error}); download it again. Received: a file "
                f"of {file.stat().st_size} bytes"
            ) from error
        if piece.ndim != 1 or piece.dtype != np.float32:
            raise ValueError(
                f"{file} must hold one row of float32 numbers. Received: {piece.dtype} of shape "
                f"{piece.shape}"
            )
        pieces.append(piece)
    return pieces


def _cut(
    pieces: Sequence[np.ndarray], shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> dict[str, StoredTensor]:
    """Say where in the row of numbers each tensor lies."""
    found, wanted = sum(len(piece) for piece in pieces), sum(map(math.prod, shapes.values()))
    if found != wanted:
        raise ValueError(
            f"{folder}: params_0.npy to params_{_FILES - 1}.npy must hold the {wanted} numbers that "
            f"params_shapes.json lists. Received: {found} numbers"
        )
    tensors, start = {}, 0
    for name, shape in shapes.items():
        tensors[name] = StoredTensor(shape, _reader(pieces, start, shape))
        start += math.prod(shape)
    return tensors


def _reader(
    pieces: Sequence[np.ndarray], start: int, shape: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        parts, first, stop = [], 0, start + math.prod(shape)
        for piece in pieces:
            part = piece[max(start - first, 0) : max(stop - first, 0)]
            if len(part):
                parts.append(part)
            first += len(piece)
        return np.concatenate(parts).reshape(shape)

    return read
