"""Tensors from the JSON of a predict request, and back: TensorFlow Serving's two forms.

In the row form a request is a list with one entry a row. In the column form it has one tensor an
input. Only numpy is needed here, so the codec knows nothing of models or servers.

Source: the public description of TensorFlow Serving's RESTful API.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.json_text import quote
from keras_gpt.serving.values import Converter, converter, is_base64, numpy_dtype, to_json

# numpy 1 allows 32 dimensions, and the rows of a request add one.
_MAX_RANK = 31


@dataclass(frozen=True)
class InputSpec:
    """What a signature says of one input.

    Args:
        dtype: name of the DataType, such as "DT_FLOAT".
        shape: the dimensions, -1 where one is open; None for any rank.
        optional: whether the signature has a default for it.
    """

    dtype: str
    shape: tuple[int, ...] | None = None
    optional: bool = False

    def check_dtype(self, index: int, given: str) -> None:
        """Check that a tensor of that type may be fed.

        Args:
            index: the input's place among the inputs, for the message.
            given: name of the tensor's DataType.

        Raises:
            ServingError: it may not.
        """
        if given != self.dtype:
            raise ServingError(
                f"Expects arg[{index}] to be {_short(self.dtype)} but {_short(given)} is provided"
            )

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Check that a tensor of that shape may be fed.

        Args:
            name: the input's name, for the message.
            shape: the tensor's shape.

        Raises:
            ServingError: it may not.
        """
        if self.shape is not None and not _shape_fits(shape, self.shape):
            raise ServingError(
                f"Tensor name: {name} has shape {_brackets(shape)} but the signature "
                f"expects: {_brackets(self.shape)}"
            )


class JsonCodec:
    """Turns JSON into the input tensors of one signature, and output tensors into JSON.

    Args:
        inputs: the signature's inputs by name.

    Example:
        >>> codec = JsonCodec({"x": InputSpec("DT_FLOAT", (-1,))})
        >>> codec.decode_rows([1.0, 2.0])
        {'x': array([1., 2.], dtype=float32)}
        >>> codec.encode_rows({"y": np.array([True, False])})
        [True, False]
    """

    def __init__(self, inputs: Mapping[str, InputSpec]) -> None:
        self.inputs = dict(sorted(inputs.items()))

    def decode_rows(self, rows: list[Any]) -> dict[str, np.ndarray]:
        """Batch a list of rows into one tensor an input.

        Args:
            rows: at least one row. A row is an object of values by input name; with a single
                input it may be the bare value. Rows must agree in their names and shapes.

        Returns:
            Tensors of shape (rows, ...) by input name. Optional inputs that no row names are
            left out.

        Raises:
            ServingError: a value, a name or a shape does not fit the signature.
        """
        as_objects = _is_row_object(rows[0])
        if not as_objects and len(self.inputs) > 1:
            raise ServingError(
                "instances is a plain list, but expecting list of objects as multiple input "
                "tensors required as per tensorinfo_map"
            )
        only_input = next(iter(self.inputs))
        names = rows[0].keys() if as_objects else {only_input}
        batches: dict[str, _Batch] = {}
        for index, row in enumerate(rows):
            if _is_row_object(row) != as_objects:
                expected = "object but got list" if as_objects else "value/list but got object"
                raise ServingError(f"Expecting {expected} at item {index} of input list")
            for name, value in row.items() if as_objects else [(only_input, row)]:
                try:
                    spec = self._spec(name)
                    batches.setdefault(name, _Batch(spec.dtype)).add(value)
                except ServingError as error:
                    key = f" key: {name}" if as_objects else ""
                    raise ServingError(
                        f"Failed to process element: {index}{key} of 'instances' list. "
                        f"Error: {error.nested()}"
                    ) from error
            if as_objects and (row.keys() != names or self._missing(row)):
                raise ServingError(
                    f"Failed to process element: {index} of 'instances' list. JSON object: "
                    f"{quote(row)} keys must be equal to: {self._names_expected()}"
                )
        return self._checked({name: batch.tensor() for name, batch in batches.items()})

    def decode_columns(self, columns: Any) -> dict[str, np.ndarray]:
        """Read one whole tensor an input.

        Args:
            columns: an object of tensors by input name, or the tensor itself where the signature
                has a single input.

        Returns:
            Tensors by input name. Optional inputs that are not named are left out.

        Raises:
            ServingError: a value, a name or a shape does not fit the signature.
        """
        if not _is_row_object(columns):
            if len(self.inputs) > 1:
                raise ServingError(
                    "inputs is a plain value/list, but expecting an object as multiple input "
                    "tensors required as per tensorinfo_map"
                )
            columns = {next(iter(self.inputs)): columns}
        for name in self._missing(columns):
            raise ServingError(f"Missing named input: {name} in 'inputs' object.")
        tensors = {}
        for name, value in columns.items():
            # TensorFlow Serving skips names that it does not know. Here an optional input with
            # a misspelled name would then silently get its default, so it is an error.
            dtype = self._spec(name).dtype
            shape = _shape_of(value)
            leaves: list[Any] = []
            _collect(value, shape, 0, converter(dtype), leaves)
            tensors[name] = np.array(leaves, numpy_dtype(dtype)).reshape(shape)
        return self._checked(tensors)

    def encode_rows(self, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Split output tensors into rows.

        Args:
            outputs: tensors of shape (rows, ...) by output name.

        Returns:
            One entry a row: an object of values by output name; the bare value where there is
            only one output.

        Raises:
            ServingError: the outputs don't share their first dimension, or one has a data type
                that JSON has no form for.
        """
        size: int | None = None
        for name, tensor in outputs.items():
            if tensor.ndim == 0:
                raise ServingError(f"Tensor name: {name} has no shape information ")
            if size is not None and len(tensor) != size:
                raise ServingError(
                    f"Tensor name: {name} has inconsistent batch size: {len(tensor)} "
                    f"expecting: {size}"
                )
            size = len(tensor)
        columns = {name: to_json(name, tensor) for name, tensor in outputs.items()}
        if len(columns) == 1:
            return next(iter(columns.values()))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def encode_columns(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """Write output tensors as they are.

        Args:
            outputs: tensors by output name.

        Returns:
            An object of nested lists by output name; the nested list itself where there is only
            one output.

        Raises:
            ServingError: an output has a data type that JSON has no form for.
        """
        columns = {name: to_json(name, tensor) for name, tensor in outputs.items()}
        return next(iter(columns.values())) if len(columns) == 1 else columns

    def _spec(self, name: str) -> InputSpec:
        if name not in self.inputs:
            raise ServingError(f"JSON object: does not have named input: {name}")
        return self.inputs[name]

    def _missing(self, given: Mapping[str, Any]) -> list[str]:
        """The inputs that must be given and are not."""
        return [n for n, spec in self.inputs.items() if n not in given and not spec.optional]

    def _names_expected(self) -> str:
        required = self._missing({})
        text = ",".join(self.inputs)
        if len(required) < len(self.inputs):
            text += f" (all but {','.join(required)} may be left out, in all rows or in none)"
        return text

    def _checked(self, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, tensor in tensors.items():
            self.inputs[name].check_shape(name, tensor.shape)
        return tensors


class _Batch:
    """The values of one input, row after row, all of one shape."""

    def __init__(self, dtype: str) -> None:
        self.dtype = numpy_dtype(dtype)
        self.convert = converter(dtype)
        self.shape: tuple[int, ...] | None = None
        self.rows = 0
        self.leaves: list[Any] = []

    def add(self, value: Any) -> None:
        """Append one row."""
        shape = _shape_of(value)
        before = len(self.leaves)
        _collect(value, shape, 0, self.convert, self.leaves)
        size = len(self.leaves) - before
        if self.shape is not None and size * self.rows != before:
            raise ServingError(f"Expecting tensor size: {before // self.rows} but got: {size}")
        if self.shape is not None and shape != self.shape:
            raise ServingError(
                f"Expecting shape {_brackets(self.shape)} but got: {_brackets(shape)}"
            )
        self.shape = shape
        self.rows += 1

    def tensor(self) -> np.ndarray:
        """All rows as one tensor, (rows, ...)."""
        return np.array(self.leaves, self.dtype).reshape(self.rows, *(self.shape or ()))


def _is_row_object(value: Any) -> bool:
    """Whether the value is an object of inputs by name, and not a base64 string."""
    return isinstance(value, dict) and not is_base64(value)


def _brackets(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _shape_fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a tensor may be fed where the signature says `expected`.

    TensorFlow Serving leaves this to the graph, which often computes something else in silence.
    Trailing dimensions of 1 may be left out: TensorFlow Serving's own half_plus_two has the shape
    (-1, 1) and is asked with flat lists.
    """
    if len(shape) > len(expected) or any(size != 1 for size in expected[len(shape) :]):
        return False
    return all(b in (-1, a) for a, b in zip(shape, expected, strict=False))


def _shape_of(value: Any) -> tuple[int, ...]:
    """The shape that the first entries of nested lists have."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MAX_RANK:
            raise ServingError(f"Encountered lists nested deeper than {_MAX_RANK} levels")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _collect(
    value: Any, shape: tuple[int, ...], level: int, convert: Converter, leaves: list[Any]
) -> None:
    """Append the leaves of nested lists, in row-major order, checking that they have `shape`."""
    if not isinstance(value, list):
        if level != len(shape):
            raise ServingError(
                f"JSON Value: {quote(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {len(shape)}"
            )
        leaves.append(convert(value))
        return
    if level >= len(shape):
        raise ServingError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise ServingError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    for item in value:
        _collect(item, shape, level + 1, convert, leaves)


def _short(name: str) -> str:
    """A DataType's name as TensorFlow's messages have it: "float" for "DT_FLOAT"."""
    return name.removeprefix("DT_").lower()
