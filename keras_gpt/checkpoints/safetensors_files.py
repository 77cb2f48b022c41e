"""Safetensors files: checked as a whole, then read and written tensor by tensor."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import ModelTensor, StoredTensor

_HEADER_LENGTH = np.dtype("<u8")
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {short: name for name, short in _NAMES.items()}


def open_safetensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Open safetensors files and list what is in them.

    The library checks each header against the file's length, so that a file that is cut short or
    has overlapping tensors is refused here, before any value is read. The values are mapped from
    the file, because the library's own reader makes two copies of each.

    Args:
        files: the files, whose tensors' names all differ.

    Returns:
        Name -> tensor.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or two hold a tensor of the same name, or one's numbers are
            of a kind that numpy does not know.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, StoredTensor] = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"the weights are missing. Received: no file {file}")
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged or cut short ({error}); save or download it again. Received: "
                f"a file of {file.stat().st_size} bytes"
            ) from error
        found = _list_tensors(file)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise ValueError(f"each tensor must be in one file only. Received: {twice[:5]} twice")
        tensors |= found
    return tensors


def write_safetensors(file: Path, tensors: Mapping[str, ModelTensor], **metadata: str) -> str:
    """Write one safetensors file, with one tensor in memory at a time.

    Args:
        file: where to; the caller sees to it that it appears whole.
        tensors: name -> tensor.
        **metadata: strings for the header.

    Returns:
        The file's SHA-256, in hexadecimal digits.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    # Wider numbers first, so that every tensor starts at a multiple of its number's size.
    order = sorted(tensors, key=lambda name: (-_dtype(tensors[name].dtype).itemsize, name))
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + _dtype(tensor.dtype).itemsize * math.prod(tensor.shape)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(file, "wb") as opened:
        for head in (np.array(len(text), _HEADER_LENGTH).tobytes(), text):
            opened.write(head)
            digest.update(head)
        for name in order:
            value = np.ascontiguousarray(tensors[name].read()).reshape(-1).view("uint8")
            opened.write(value.data)
            digest.update(value.data)
    return digest.hexdigest()


def _list_tensors(file: Path) -> dict[str, StoredTensor]:
    with open(file, "rb") as opened:
        length = int(np.frombuffer(opened.read(_HEADER_LENGTH.itemsize), _HEADER_LENGTH)[0])
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    first = _HEADER_LENGTH.itemsize + length
    found = {}
    for name, about in header.items():
        if about["dtype"] not in _DTYPES:
            raise ValueError(
                f"{file} must hold numbers of the kinds {sorted(_DTYPES)}. Received: {name} with "
                f"{about['dtype']}"
            )
        shape = tuple(about["shape"])
        place = first + about["data_offsets"][0]
        found[name] = StoredTensor(
            shape, _reader(file, _dtype(_DTYPES[about["dtype"]]), shape, place)
        )
    return found


def _reader(
    file: Path, dtype: np.dtype[Any], shape: tuple[int, ...], place: int
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        if 0 in shape:  # there is nothing to map
            return np.empty(shape, dtype)
        # Copy on write: nothing that is done with the array reaches the file.
        return np.asarray(np.memmap(file, dtype, mode="c", offset=place, shape=shape))

    return read


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes  # noqa: F401  numpy learns bfloat16 and the like by this import

    return np.dtype(name)
