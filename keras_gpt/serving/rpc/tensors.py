"""TensorProto in and out, with what is wrong with one said as TensorFlow Serving says it."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from keras_gpt.serving.codec import InputSpec
from keras_gpt.serving.errors import ServingError

# A few bytes of a TensorProto can mean a tensor of any size, for a value that is left out is the
# one before it. So tensors are limited and not only the messages that they come in.
MAX_TENSOR_BYTES = 2**30
_TEXT_BYTES = 24  # what TensorFlow holds of a string beside its bytes

# numpy type -> (the field of a TensorProto, the type of its numbers)
_FIELDS: dict[str, tuple[str, Any]] = {
    "float16": ("half_val", np.uint16),
    "bfloat16": ("half_val", np.uint16),
    "float32": ("float_val", None),
    "float64": ("double_val", None),
    **dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), ("int_val", None)),
    "int64": ("int64_val", None),
    "uint32": ("uint32_val", None),
    "uint64": ("uint64_val", None),
    "bool": ("bool_val", None),
    "complex64": ("scomplex_val", np.float32),
    "complex128": ("dcomplex_val", np.float64),
    "object": ("string_val", None),
}


def read_tensor(alias: str, index: int, proto: Any, spec: InputSpec) -> np.ndarray:
    """Read the tensor of an input.

    Args:
        alias: the input's name.
        index: its place among the inputs, for the message.
        proto: a TensorProto.
        spec: what the signature says of the input.

    Returns:
        The values; of strings an array of bytes objects.

    Raises:
        ServingError: the tensor is malformed, too large, or not of the input's type or shape.
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.dtype not in types_pb2.DataType.values() or min(shape, default=0) < 0:
        raise ServingError(f"tensor parsing error: {alias}")
    given = str(types_pb2.DataType.Name(proto.dtype))
    spec.check_dtype(index, given)
    dtype = tf.as_dtype(proto.dtype)
    if dtype in (tf.resource, tf.variant):  # these are memory of this process, not data
        raise ServingError(f"tensor parsing error: {alias}")
    # Where there are fewer values than places, TensorFlow repeats the last one.
    text = max(map(len, proto.string_val), default=0)
    size = math.prod(shape) * (_TEXT_BYTES + text if dtype == tf.string else dtype.size)
    if size > MAX_TENSOR_BYTES:
        raise ServingError(
            f"tensor {alias} would have {size} bytes, more than {MAX_TENSOR_BYTES}",
            "RESOURCE_EXHAUSTED",
        )
    spec.check_shape(alias, shape)
    content = len(proto.tensor_content)
    if content not in (0, size) and dtype != tf.string:  # TensorFlow would say so in the log too
        raise ServingError(f"tensor parsing error: {alias}")
    try:
        tensor = tf.io.parse_tensor(proto.SerializeToString(), dtype)
    except tf.errors.InvalidArgumentError as error:
        raise ServingError(f"tensor parsing error: {alias}") from error
    return np.asarray(tensor.numpy(), dtype.as_numpy_dtype)


def write_tensor(array: np.ndarray, proto: Any) -> None:
    """Write an output, its values in the field of their type.

    Args:
        array: the output.
        proto: a TensorProto, which is filled.
    """
    name = array.dtype.name
    if name not in _FIELDS:  # few and small types: TensorFlow packs these into tensor_content
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype = types_pb2.DT_STRING if name == "object" else tf.as_dtype(name).as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    field, as_type = _FIELDS[name]
    values = np.ascontiguousarray(array).reshape(-1)
    getattr(proto, field).extend((values if as_type is None else values.view(as_type)).tolist())
