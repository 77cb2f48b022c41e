"""Reading the tensors of an HDF5 file that holds plain numbers, all of them in the file itself."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import StoredTensor


def open_hdf5(file: Path, unused: str) -> dict[str, StoredTensor]:
    """Open an HDF5 file and list what is in it.

    HDF5 lets a file declare numbers that lie in other files, or nowhere: such ones are refused
    here, before any value is read.

    Args:
        file: the file.
        unused: tensors that have this in their names are left out.

    Returns:
        Name -> tensor.

    Raises:
        ValueError: it is damaged, or holds something other than floating-point numbers of its own.
    """
    import h5py

    stored: dict[str, StoredTensor] = {}
    wrong: list[str] = []
    size = 0

    def visit(name: str, item: Any) -> None:
        nonlocal size
        if not isinstance(item, h5py.Dataset) or unused in name:
            return
        reason = _why_not(item)
        if reason is not None:
            wrong.append(f"{name}, {reason}")
            return
        size += item.id.get_storage_size()
        stored[name] = StoredTensor(tuple(item.shape), _reader(file, name))

    try:
        with h5py.File(file, "r") as opened:
            opened.visititems(visit)
    except Exception as error:  # what the library raises for a damaged file has no common class
        raise _damaged(file, error) from error
    if wrong:
        raise ValueError(
            f"{file} must hold floating-point numbers, all of them in the file itself. Received: "
            f"{'; '.join(wrong[:5])}"
        )
    if size > file.stat().st_size:
        raise ValueError(
            f"{file} is damaged: its tensors must lie side by side in it. Received: {size} bytes "
            f"of tensors in a file of {file.stat().st_size} bytes"
        )
    return stored


def _why_not(item: Any) -> str | None:
    """Say what keeps a dataset from being read, or None."""
    if item.external:
        return "whose numbers lie in another file (external storage)"
    if item.is_virtual:
        return "whose numbers lie in other datasets (a virtual dataset)"
    if item.shape is None or (item.dtype.kind != "f" and not _is_bfloat16(item)):
        return f"of dtype {item.dtype}"
    declared = math.prod(item.shape)
    if item.chunks is None:
        there = item.id.get_storage_size() // item.dtype.itemsize
    else:
        # Filters make chunks smaller, but every one must be there.
        there = item.id.get_num_chunks() * math.prod(item.chunks)
    if there < declared:
        return f"of shape {item.shape}, of which {there} numbers are there"
    return None


def _is_bfloat16(item: Any) -> bool:
    """HDF5 knows no bfloat16: Keras writes two bytes of no kind, and notes beside them what they are."""
    return item.dtype == np.dtype("V2") and item.attrs.get("dtype") == "bfloat16"


def _reader(file: Path, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        import h5py
        import ml_dtypes

        try:
            with h5py.File(file, "r") as opened:
                values = np.asarray(opened[name][...])
        except Exception as error:  # as above
            raise _damaged(file, error) from error
        return values.view(ml_dtypes.bfloat16) if values.dtype.kind == "V" else values

    return read


def _damaged(file: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{file} is damaged or cut short ({type(error).__name__}: {str(error)[:200]}); save or "
        "download it again"
    )
