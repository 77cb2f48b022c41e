"""Keras' weight files (`.weights.h5`) as KerasHub's GPT-2 fills them: what lies where, and reading them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_gpt.checkpoints.checkpoint import Layout, Part, StoredTensor, TensorMap
from keras_gpt.config import GPTConfig


def tensor_map(config: GPTConfig) -> TensorMap:
    """List which tensors of KerasHub's GPT-2 make up which of ours.

    Keras names each layer after its class, with a number from the second one on.
    """
    dim, inner, heads = config.embedding_dim, config.feed_forward_dim, config.num_heads

    def whole(name: str, *shape: int) -> tuple[Part, ...]:
        return (Part(f"layers/{name}", shape, shape[-1]),)

    mapping = {
        "token_embedding/embeddings": whole("reversible_embedding/vars/0", config.vocab_size, dim),
        "position_embedding/table": whole("position_embedding/vars/0", config.context_length, dim),
    }
    by_head = (heads, config.head_dim)
    kernel_layout = Layout(
        lambda tensor: tensor.reshape(dim, dim), lambda tensor: tensor.reshape(dim, *by_head)
    )
    bias_layout = Layout(lambda tensor: tensor.reshape(dim), lambda tensor: tensor.reshape(by_head))
    projection_layout = Layout(
        lambda tensor: tensor.reshape(dim, dim), lambda tensor: tensor.reshape(*by_head, dim)
    )
    for layer in range(config.num_layers):
        ours, theirs = f"block_{layer}", "transformer_decoder" + (f"_{layer}" if layer else "")
        attention = f"layers/{theirs}/self_attention_layer"
        queries_keys_values = [
            f"{attention}/{each}_dense/vars" for each in ("query", "key", "value")
        ]
        mapping |= {
            f"{ours}/attention_norm/gamma": whole(
                f"{theirs}/self_attention_layer_norm/vars/0", dim
            ),
            f"{ours}/attention_norm/beta": whole(f"{theirs}/self_attention_layer_norm/vars/1", dim),
            f"{ours}/attention/qkv/kernel": tuple(
                Part(f"{each}/0", (dim, *by_head), dim, kernel_layout)
                for each in queries_keys_values
            ),
            f"{ours}/attention/qkv/bias": tuple(
                Part(f"{each}/1", by_head, dim, bias_layout) for each in queries_keys_values
            ),
            f"{ours}/attention/projection/kernel": (
                Part(f"{attention}/output_dense/vars/0", (*by_head, dim), dim, projection_layout),
            ),
            f"{ours}/attention/projection/bias": (
                Part(f"{attention}/output_dense/vars/1", (dim,), dim),
            ),
            f"{ours}/feed_forward_norm/gamma": whole(
                f"{theirs}/feedforward_layer_norm/vars/0", dim
            ),
            f"{ours}/feed_forward_norm/beta": whole(f"{theirs}/feedforward_layer_norm/vars/1", dim),
        }
        for dense, name, shape in (
            ("up", "feedforward_intermediate_dense", (dim, inner)),
            ("down", "feedforward_output_dense", (inner, dim)),
        ):
            mapping[f"{ours}/feed_forward/{dense}/kernel"] = whole(
                f"{theirs}/{name}/vars/0", *shape
            )
            mapping[f"{ours}/feed_forward/{dense}/bias"] = whole(
                f"{theirs}/{name}/vars/1", shape[1]
            )
    mapping["final_norm/gamma"] = whole("layer_normalization/vars/0", dim)
    mapping["final_norm/beta"] = whole("layer_normalization/vars/1", dim)
    return mapping


def open_h5(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Open weight files of Keras and list what is in them.

    Args:
        files: the files, whose tensors' names all differ.

    Returns:
        The tensors' paths in the newest way of writing them -> tensors.

    Raises:
        ValueError: a file is damaged, a tensor lies outside of its file, or two hold a tensor of
            the same name.
    """
    import h5py

    tensors: dict[str, StoredTensor] = {}
    for file in files:
        found: list[tuple[str, Any]] = []

        def visit(path: str, item: Any, found: list[tuple[str, Any]] = found) -> None:
            if isinstance(item, h5py.Dataset):
                found.append((path, item))

        size = file.stat().st_size
        try:
            with h5py.File(file, "r") as opened:
                opened.visititems(visit)  # does not follow links to other files
                listed = [
                    (path, _checked(file, path, item, size), item.dtype.kind == "f")
                    for path, item in found
                ]
        # h5py has no one class for what it cannot read.
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged or cut short ({str(error)[:200]}); save or download it again. "
                f"Received: a file of {size} bytes"
            ) from error
        for path, shape, is_plain in listed:
            name = _tidy(path)
            if name in tensors:
                raise ValueError(f"each tensor must be in one file once. Received: {name!r} twice")
            tensors[name] = StoredTensor(shape, _reader(file, path, is_plain))
    return tensors


def write_h5(file: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write one weight file of Keras, tensor by tensor.

    Args:
        file: where to; the caller sees to it that it appears whole.
        tensors: paths and values.
    """
    import h5py

    with h5py.File(file, "w") as opened:
        for path, value in tensors:
            dataset = opened.create_dataset(path, data=value)
            if value.dtype.name == "bfloat16":  # HDF5 has no such type: two bytes and a note
                dataset.attrs["dtype"] = "bfloat16"


def _tidy(path: str) -> str:
    """Write an older path as Keras writes it now: attributes lost their underscore, "layers" came."""
    path = path.replace("_layer_checkpoint_dependencies/", "layers/", 1)
    return "/".join(part.removeprefix("_") for part in path.split("/"))


def _checked(file: Path, path: str, dataset: Any, size: int) -> tuple[int, ...]:
    if dataset.is_virtual or dataset.external:
        raise ValueError(
            f"{file} must hold its tensors itself. Received: {path!r}, which lies in another file"
        )
    if dataset.dtype.kind != "f" and dataset.attrs.get("dtype") != "bfloat16":
        raise ValueError(
            f"{file} must hold floating-point numbers; a quantized preset is not supported. "
            f"Received: {path!r} of {dataset.dtype}"
        )
    if dataset.chunks is None:  # one piece of the file
        start, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
        if stored != dataset.nbytes or (start is not None and start + stored > size):
            raise OSError(f"{path!r} has {dataset.nbytes} bytes, and the file does not hold them")
    return tuple(dataset.shape)


def _reader(file: Path, path: str, is_plain: bool) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        import h5py
        import ml_dtypes

        with h5py.File(file, "r") as opened:
            value = opened[path][()]
        return value if is_plain else np.asarray(value).view(ml_dtypes.bfloat16)

    return read
