"""The header of a gguf file: settings and places of tensors, every number checked before it is used.

The `gguf` library's own reader trusts the counts and offsets of a file: a damaged one makes it
fail in many ways, or fill the memory. This one gives an error that says what is wrong; the library
still turns the stored blocks into numbers.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
# The value types of the format by their number; bool is one byte.
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_MOST_DIMENSIONS = 4
# Vocabularies have some hundred thousand; a list of numbers takes far more memory than disk.
_MOST_ITEMS = 2**24


class TensorPlace(NamedTuple):
    """Where a tensor lies in the file.

    Args:
        shape: rows first, as numpy has it (the file has it the other way round).
        kind: the library's `GGMLQuantizationType`.
        start: the first byte in the file.
        size: the number of bytes.
    """

    shape: tuple[int, ...]
    kind: Any
    start: int
    size: int


class Header(NamedTuple):
    """What stands before the tensors' data."""

    fields: dict[str, Any]
    tensors: dict[str, TensorPlace]


def read_header(path: Path) -> Header:
    """Read and check the header of a gguf file.

    Args:
        path: the file.

    Returns:
        The settings (numbers, strings, lists of either) and the places of the tensors.

    Raises:
        ValueError: it is no such file, or it is damaged or cut short.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} must be a gguf file. Received: an empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Cursor(data).header()
            except (_DamagedError, struct.error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path} is damaged or cut short ({error}); download or convert it again. "
                    f"Received: a file of {len(data)} bytes"
                ) from error


class _DamagedError(Exception):
    pass


class _Cursor:
    """Reads forward through the file and never past its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> Header:
        if self._take(4) != _MAGIC:
            raise _DamagedError("it does not begin with GGUF")
        version = self._integer("<I")
        if version not in (2, 3):
            raise _DamagedError(f"version {version}, where 2 and 3 are known")
        num_tensors, num_fields = self._integer("<Q"), self._integer("<Q")
        # Each takes at least so many bytes: a greater count is not worth a try.
        self._require_room(num_tensors, 8 + 4 + 8 + 4 + 8, "tensors")
        self._require_room(num_fields, 8 + 4 + 1, "settings")
        fields: dict[str, Any] = {}
        for _ in range(num_fields):
            name = self._string()
            if name in fields:
                raise _DamagedError(f"the setting {name!r} is there twice")
            fields[name] = self._value(self._integer("<I"))
        infos = [self._tensor_info() for _ in range(num_tensors)]
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _DamagedError(f"general.alignment is {alignment!r}, not a power of two")
        base = -(-self._at // alignment) * alignment
        return Header(fields, self._places(infos, base, alignment))

    def _places(
        self, infos: list[tuple[str, tuple[int, ...], Any, int]], base: int, alignment: int
    ) -> dict[str, TensorPlace]:
        import gguf

        places: dict[str, TensorPlace] = {}
        for name, shape, kind, offset in infos:
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if shape[-1] % block:
                raise _DamagedError(
                    f"{name} has rows of {shape[-1]}, where {kind.name} has blocks of {block}"
                )
            size = int(np.prod([int(each) for each in shape], dtype=object)) // block * block_bytes
            if name in places:
                raise _DamagedError(f"the tensor {name!r} is there twice")
            if offset % alignment:
                raise _DamagedError(f"{name} lies at {offset}, which is no multiple of {alignment}")
            if base + offset + size > len(self._data):
                raise _DamagedError(f"{name} ends at byte {base + offset + size}")
            places[name] = TensorPlace(shape, kind, base + offset, size)
        end = 0
        for name, place in sorted(places.items(), key=lambda item: item[1].start):
            if place.start < end:
                raise _DamagedError(f"{name} lies over the tensor before it")
            end = place.start + place.size
        return places

    def _tensor_info(self) -> tuple[str, tuple[int, ...], Any, int]:
        import gguf

        name = self._string()
        dimensions = self._integer("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise _DamagedError(f"{name} has {dimensions} dimensions")
        shape = tuple(self._integer("<Q") for _ in range(dimensions))[::-1]
        if not all(shape):
            raise _DamagedError(f"{name} has the shape {shape}")
        number = self._integer("<I")
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError:
            raise _DamagedError(f"{name} is of the unknown type {number}") from None
        return name, shape, kind, self._integer("<Q")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, count = self._integer("<I"), self._integer("<Q")
            if count > _MOST_ITEMS:
                raise _DamagedError(f"a list of {count} items")
            if item == _STRING:
                self._require_room(count, 8, "strings")
                return [self._string() for _ in range(count)]
            numbers = self._numbers(item, count)
            return numbers.tolist()
        return self._numbers(kind, 1)[0].item()

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        if kind not in _NUMBERS:
            raise _DamagedError(f"a setting is of the unknown type {kind}")
        dtype = _NUMBERS[kind]
        self._require_room(count, dtype.itemsize, "numbers")
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _string(self) -> str:
        return self._take(self._integer("<Q")).decode("utf-8")

    def _integer(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _DamagedError(f"{size} bytes should follow byte {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _require_room(self, count: int, size: int, what: str) -> None:
        if count * size > len(self._data) - self._at:
            raise _DamagedError(f"{count} {what} should follow byte {self._at}")
