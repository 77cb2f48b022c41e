"""What every format is read into: a config, a tokenizer, and tensors that are read one by one."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_gpt.config import GPTConfig
from keras_gpt.generation_settings import GenerationSettings
from keras_gpt.matrix_order import as_in_files, lies_by_outputs

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


_BLOCK = 1 << 24  # bytes that are given to a backend at a time


class StoredTensor(NamedTuple):
    """A tensor of ours that lies in somebody's file: its shape is known before it is read."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class ModelTensor(NamedTuple):
    """A tensor that a model has and a file is to have; its value is copied out when it is read."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class Taker(NamedTuple):
    """What takes a tensor of ours in place of a variable: its shape is known before it is read."""

    shape: tuple[int, ...]
    take: Callable[[np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model on disk, opened and checked, with no weight read yet.

    Args:
        source: what to call it in messages.
        model: name of the model's class, "GPT" for every foreign format.
        config: what the model is made from; for a GPT the fields of `GPTConfig`.
        tensors: our name of each weight (`tensor_name`) -> where it lies.
        tokenizer: comes along where the source has one.
        settings: how the model is meant to be run.
        verify: raises a ValueError where the values are not those that were written; called once,
            before the first is used.
        quantization: "int8" or "int4" where the matrices are stored as the integers of that mode.
    """

    source: str
    model: str
    config: dict[str, Any]
    tensors: Mapping[str, StoredTensor]
    tokenizer: "Tokenizer | None" = None
    settings: GenerationSettings = dataclasses.field(default_factory=GenerationSettings)
    verify: Callable[[], None] | None = None
    quantization: str | None = None


def tensor_name(variable: Any) -> str:
    """Give a weight's name within its model: its path without the model's own name."""
    return variable.path.split("/", 1)[1]


def named_tensors(variables: Sequence[Any]) -> dict[str, ModelTensor]:
    """Give the values of Keras variables under our names, to be read one at a time."""
    return {
        tensor_name(each): ModelTensor(_shape(each), each.dtype, _value_reader(each))
        for each in variables
    }


def _shape(variable: Any) -> tuple[int, ...]:
    """Give the shape that a variable has in files; see `matrix_order`."""
    shape = tuple(variable.shape)
    return shape[::-1] if lies_by_outputs(variable) else shape


def _value_reader(variable: Any) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        import keras

        return as_in_files(variable, np.asarray(keras.ops.convert_to_numpy(variable.value)))

    return read


def load_weights(
    checkpoint: Checkpoint, variables: Sequence[Any], takers: Mapping[str, Taker] | None = None
) -> None:
    """Read weights into variables, one tensor at a time.

    All names and shapes are compared, and the values verified where the format allows it, before
    the first value is changed.

    Args:
        checkpoint: holds them.
        variables: the model's Keras variables; values are cast to their dtypes.
        takers: our names of further tensors -> what takes them.

    Raises:
        ValueError: the checkpoint's tensors are not those of the model, or were tampered with.
    """
    wanted = {
        tensor_name(each): Taker(_shape(each), functools.partial(_assign, each))
        for each in variables
    }
    wanted |= takers or {}
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    expected = {name: taker.shape for name, taker in wanted.items()}
    require_tensors(checkpoint.source, shapes, expected)
    if checkpoint.verify is not None:
        checkpoint.verify()
    for name, taker in wanted.items():
        taker.take(checkpoint.tensors[name].read())


def _assign(variable: Any, value: np.ndarray) -> None:
    """Set a variable; a large one block by block, since TensorFlow copies what it is given twice."""
    import keras

    value = as_in_files(variable, value)
    if value.nbytes > _BLOCK and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.distribute.has_strategy():  # a mirrored variable has no assignment of a part
            rows = max(1, len(value) * _BLOCK // value.nbytes)
            for start in range(0, len(value), rows):
                block = tf.convert_to_tensor(value[start : start + rows])
                # `value[start:end].assign` reads the whole variable first, and then copies it.
                tf.raw_ops.ResourceStridedSliceAssign(
                    ref=variable.value.handle,
                    begin=[start],
                    end=[start + rows],
                    strides=[1],
                    value=tf.cast(block, variable.dtype),
                )
            # After an assignment of a part each reading would give a copy of the whole.
            tf.raw_ops.DisableCopyOnRead(resource=variable.value.handle)
            return
    variable.assign(value)


def require_tensors(
    source: str, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that a source holds exactly the expected tensors.

    Args:
        source: what to call it in the message.
        shapes: name -> shape, as found.
        expected: name -> shape, as the config says.

    Raises:
        ValueError: one is missing, one is too many, or one has another shape; the message names them.
    """
    missing = sorted(set(expected) - set(shapes))
    extra = sorted(set(shapes) - set(expected))
    wrong = [
        f"{name} is {shapes[name]}, not {expected[name]}"
        for name in sorted(set(shapes) & set(expected))
        if tuple(shapes[name]) != tuple(expected[name])
    ]
    if missing or extra or wrong:
        raise ValueError(
            f"{source} must hold the tensors that its config describes. Received: missing "
            f"{_some(missing)}, extra {_some(extra)}, of another shape {_some(wrong)}"
        )


def require_size(
    source: str, stored: Mapping[str, StoredTensor], num_layers: int, num_parameters: int = 0
) -> None:
    """Check that a source may well hold the model that its config describes.

    A config of some bytes can ask for more layers than there is memory for, so this comes before
    their names are listed or the model is made. `require_tensors` compares exactly, and names what
    is missing.

    Args:
        source: what to call it in the message.
        stored: its tensors.
        num_layers: as the config says.
        num_parameters: as the config says; 0 where all shapes are compared before the model is made.

    Raises:
        ValueError: there are fewer tensors than layers, or not half as many numbers as parameters.
    """
    size = sum(math.prod(tensor.shape) for tensor in stored.values())
    if num_layers > len(stored) or num_parameters > 2 * size:
        raise ValueError(
            f"{source} must hold the tensors that its config describes: {num_layers} layers"
            + (f" and {num_parameters} numbers" if num_parameters else "")
            + f". Received: {len(stored)} tensors with {size} numbers"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{names[:5]}{more}"


# -- how another format's tensors make up ours --------------------------------------------------------


class Layout(NamedTuple):
    """How a tensor of another format is turned into ours and back; both are exact."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda tensor: tensor, lambda tensor: tensor)
# torch keeps a dense layer's matrix as (out, in), we as (in, out).
TRANSPOSED = Layout(lambda tensor: tensor.T, lambda tensor: tensor.T)


class Part(NamedTuple):
    """A tensor of another format, which is a whole tensor of ours or some of its last columns.

    Args:
        name: its name there.
        shape: its shape there.
        width: the length of our last axis that it fills.
        layout: how to turn one into the other.
    """

    name: str
    shape: tuple[int, ...]
    width: int
    layout: Layout = SAME


# Our name -> the parts that lie one after the other along its last axis.
TensorMap = Mapping[str, tuple[Part, ...]]


def map_tensors(
    tensor_map: Callable[[GPTConfig], TensorMap],
    config: GPTConfig,
    stored: Mapping[str, StoredTensor],
    source: str,
) -> dict[str, StoredTensor]:
    """Give our tensors from those of another format.

    Args:
        tensor_map: gives, for a config, which make up which.
        config: the model's, as the source says; it may ask for more layers than there is memory for.
        stored: the other format's tensors under its own names.
        source: what to call it in messages.

    Returns:
        Our names -> tensors, whose values are put together when they are read.

    Raises:
        ValueError: a tensor is missing, one is too many, or one has another shape.
    """
    require_size(source, stored, config.num_layers)
    mapping = tensor_map(config)
    expected = {part.name: part.shape for parts in mapping.values() for part in parts}
    require_tensors(source, {name: each.shape for name, each in stored.items()}, expected)

    def reader(parts: tuple[Part, ...]) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            pieces = [part.layout.to_ours(stored[part.name].read()) for part in parts]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)

        return read

    ours = {}
    for name, parts in mapping.items():
        first = parts[0].layout.to_ours(np.empty(parts[0].shape, "uint8"))
        shape = (*first.shape[:-1], sum(part.width for part in parts))
        ours[name] = StoredTensor(shape, reader(parts))
    return ours


def split_tensors(mapping: TensorMap, variables: Sequence[Any]) -> dict[str, ModelTensor]:
    """Give another format's tensors from ours, to be read one at a time.

    Args:
        mapping: which of ours make up which.
        variables: the model's Keras variables.

    Returns:
        The other format's names -> tensors, in our variables' dtypes.
    """
    ours = named_tensors(variables)
    require_tensors("the model", dict.fromkeys(ours, ()), dict.fromkeys(mapping, ()))

    def reader(tensor: ModelTensor, part: Part, start: int) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            piece = tensor.read()[..., start : start + part.width]
            return np.ascontiguousarray(part.layout.to_theirs(piece))

        return read

    theirs = {}
    for name, parts in mapping.items():
        start = 0
        for part in parts:
            theirs[part.name] = ModelTensor(
                part.shape, ours[name].dtype, reader(ours[name], part, start)
            )
            start += part.width
    return theirs
