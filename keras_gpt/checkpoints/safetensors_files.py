"""Safetensors files: opened and checked as a whole, read tensor by tensor."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import StoredTensor


def open_safetensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Open safetensors files and list what is in them.

    The library checks each header against the file's length, so that a file that is cut short or
    has overlapping tensors is refused here, before any value is read.

    Args:
        files: the files, whose tensors' names all differ.

    Returns:
        Name -> tensor.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or two hold a tensor of the same name.
    """
    import ml_dtypes  # noqa: F401  numpy learns bfloat16 by this import
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, StoredTensor] = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"the weights are missing. Received: no file {file}")
        try:
            opened = safe_open(file, framework="numpy")
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{file} is damaged or cut short ({error}); save or download it again. Received: "
                f"a file of {file.stat().st_size} bytes"
            ) from error
        twice = sorted(set(shapes) & set(tensors))
        if twice:
            raise ValueError(f"each tensor must be in one file only. Received: {twice[:5]} twice")
        for name, shape in shapes.items():
            tensors[name] = StoredTensor(shape, _reader(opened, name))
    return tensors


def write_safetensors(file: Path, tensors: dict[str, np.ndarray], **metadata: str) -> None:
    """Write one safetensors file.

    Args:
        file: where to; the caller sees to it that it appears whole.
        tensors: name -> contiguous array.
        **metadata: strings for the header.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:  # the library's own name for a full disk
        raise OSError(f"the weights cannot be written ({error}). Received: file={file}") from error
    # The library gives its files to their owner alone, whatever the user's own rule is.
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def _reader(opened: Any, name: str) -> Callable[[], np.ndarray]:
    return lambda: opened.get_tensor(name)
