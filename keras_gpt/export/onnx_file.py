"""The forward pass of a GPT as an ONNX file."""

import os
from typing import Any

import tensorflow as tf

from keras_gpt.files import require_free_file, whole_file
from keras_gpt.generation.protocol import Decoder

# The first with all that models here use; runtimes of 2023 and later know it.
_OPSET = 18
# What protobuf lets one message hold.
_MOST_BYTES = 2**31


def export_onnx(model: Decoder, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write token_ids (batch, time) int32 -> logits (batch, time, vocab_size) float32 as ONNX.

    Args:
        model: whose weights go along; of float32.
        path: the file; it appears whole or not at all.
        overwrite: whether an older file may be replaced.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ImportError: the extra `onnx` is not installed.
        ValueError: the weights are not float32, or are more than an ONNX file holds.

    Example:
        >>> export_onnx(gpt, "my-gpt.onnx")
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            "ONNX needs tf2onnx: pip install 'keras-gpt[onnx]'. Received: no module tf2onnx"
        ) from error
    require_free_file(path, overwrite)
    variables = [variable.value for variable in model.variables]
    other = sorted({each.dtype.name for each in variables if each.dtype.is_floating} - {"float32"})
    if other or tf.as_dtype(_logits_dtype(model)) != tf.float32:
        raise ValueError(
            'ONNX takes models of float32: load the model with dtype="float32". Received: '
            f"dtype={_logits_dtype(model)!r}, weights of {', '.join(other) or 'float32'}"
        )
    size = sum(each.dtype.size * each.shape.num_elements() for each in variables)
    if size >= _MOST_BYTES:
        raise ValueError(
            f"an ONNX file holds less than {_MOST_BYTES:,} bytes. Received: weights of {size:,} bytes"
        )

    def forward(token_ids: Any) -> dict[str, Any]:
        return {"logits": model(token_ids, training=False)}

    specs = [tf.TensorSpec([None, None], tf.int32, name="token_ids")]
    function = tf.function(forward, input_signature=specs, autograph=False)
    proto, _ = tf2onnx.convert.from_function(function, input_signature=specs, opset=_OPSET)
    with whole_file(path) as scratch:
        scratch.write_bytes(proto.SerializeToString())


def _logits_dtype(model: Any) -> str:
    return str(model.compute_dtype)
