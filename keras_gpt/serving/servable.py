"""One loaded version of one model, and what can be asked of it."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from keras_gpt.serving.codec import InputSpec, JsonCodec
from keras_gpt.serving.errors import ServingError, code_name
from keras_gpt.serving.graph import LoadedGraph
from keras_gpt.serving.json_text import quote
from keras_gpt.serving.tf_examples import decode_examples, encode_classes, encode_values

DEFAULT_SIGNATURE = "serving_default"
_TAG = "serve"
METHODS = {
    "classification": "tensorflow/serving/classify",
    "regression": "tensorflow/serving/regress",
}

# The lines of a graph error that say where the model was built. They are about the machine that
# exported it, and TensorFlow Serving has none of them.
_WHERE_BUILT = re.compile(
    r"Graph execution error:|Detected at node |<stack traces unavailable>| {2}File | {4}|\s*$"
)


@dataclass(frozen=True)
class Signature:
    """One signature of a loaded model.

    Args:
        definition: the SignatureDef as the file has it.
        function: the loaded function. It takes every input by name and gives every output.
        codec: turns JSON into the function's inputs and its outputs into JSON.
        defaults: what the inputs are that a request may leave out. A session does not fill these in.
    """

    definition: Any
    function: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    codec: JsonCodec
    defaults: Mapping[str, np.ndarray]

    @property
    def method_name(self) -> str:
        """What the signature is for, such as "tensorflow/serving/predict"."""
        return str(self.definition.method_name)


class Servable:
    """A SavedModel, loaded with plain TensorFlow.

    Args:
        name: the model's name.
        version: its version number.
        path: the version's folder, which holds `saved_model.pb`.

    Raises:
        FileNotFoundError: there is no `saved_model.pb` in the folder.
        ValueError: the file is no SavedModel, or none that is for serving.
        OSError, tf.errors.OpError: TensorFlow cannot load what the folder holds.

    Example:
        >>> Servable("half_plus_two", 123, "saved_models/half_plus_two/123").predict(
        ...     {"instances": [1.0, 2.0, 5.0]})
        {'predictions': [2.5, 3.0, 4.5]}
    """

    def __init__(self, name: str, version: int, path: str | os.PathLike[str]) -> None:
        self.name = name
        self.version = version
        self.definitions = _signature_defs(Path(path))
        graph = LoadedGraph(path, _TAG)
        self.signatures = {
            key: _signature(definition, graph)
            for key, definition in self.definitions.items()
            if _is_of_tensors(definition)
        }

    def metadata(self) -> dict[str, Any]:
        """The answer to a metadata request.

        Returns:
            `model_spec`, and every SignatureDef in protobuf's JSON mapping.
        """
        return {
            "model_spec": {
                "name": self.name,
                "signature_name": "",
                "version": str(self.version),
            },
            "metadata": {
                "signature_def": {
                    "signature_def": {
                        key: json_format.MessageToDict(
                            definition,
                            preserving_proto_field_name=True,
                            always_print_fields_with_no_presence=True,
                        )
                        for key, definition in sorted(self.definitions.items())
                    }
                }
            },
        }

    def predict(self, document: dict[str, Any]) -> dict[str, Any]:
        """The answer to a predict request.

        Args:
            document: the request: `instances` (rows) or `inputs` (columns), and optionally
                `signature_name`.

        Returns:
            `{"predictions": ...}` for rows, `{"outputs": ...}` for columns.

        Raises:
            ServingError: the request does not fit the signature, or the graph fails on it.
        """
        key = signature_name(document)
        if key not in self.definitions:
            raise ServingError(f'Serving signature name: "{key}" not found in signature def')
        if not self.definitions[key].inputs:
            shown = key if "signature_name" in document else "DEFAULT"
            raise ServingError(f"Failed to get input map for signature: {shown}")
        signature = self.signatures[key]
        codec = signature.codec
        if "instances" in document and "inputs" in document:
            raise ServingError(
                f"JSON Value: {quote(document)} Not formatted correctly expecting only one of "
                "'inputs' or 'instances' keys to exist "
            )
        if "instances" in document:
            rows = document["instances"]
            if not isinstance(rows, list):
                raise ServingError(
                    f"JSON Value: {quote(document)} Excepting 'instances' to be an list/array"
                )
            if not rows:
                raise ServingError(f"JSON Value: {quote(document)} No values in 'instances' array")
            outputs = run(signature, codec.decode_rows(rows))
            return {"predictions": codec.encode_rows(outputs)}
        if "inputs" in document:
            outputs = run(signature, codec.decode_columns(document["inputs"]))
            return {"outputs": codec.encode_columns(outputs)}
        raise ServingError("Missing 'inputs' or 'instances' key")

    def classify(self, document: dict[str, Any]) -> dict[str, Any]:
        """The answer to a classify request.

        Args:
            document: the request: `examples`, and optionally `context` and `signature_name`.

        Returns:
            `{"results": [[[label, score], ...], ...]}`.

        Raises:
            ServingError: the request does not fit, the signature is not for classification, or
                the graph fails.
        """
        examples = decode_examples(document)
        return {"results": self.classes(signature_name(document), examples)}

    def regress(self, document: dict[str, Any]) -> dict[str, Any]:
        """The answer to a regress request.

        Args:
            document: the request: `examples`, and optionally `context` and `signature_name`.

        Returns:
            `{"results": [value, ...]}`.

        Raises:
            ServingError: the request does not fit, the signature is not for regression, or the
                graph fails.
        """
        examples = decode_examples(document)
        return {"results": self.values(signature_name(document), examples)}

    def classes(self, key: str, examples: np.ndarray) -> list[Any]:
        """Classify serialized examples.

        Args:
            key: the signature.
            examples: strings of shape (examples,), each a serialized `tf.Example`.

        Returns:
            For each example a list of `[label, score]`.

        Raises:
            ServingError: the signature is not for classification, or the graph fails.
        """
        outputs = run(self._for_examples(key, "classification"), {"inputs": examples})
        if not outputs.keys() & {"classes", "scores"}:
            raise ServingError(
                "Expected classification signature outputs to contain at least one of "
                f'"classes" or "scores". Signature has: {",".join(outputs)}',
                "FAILED_PRECONDITION",
            )
        return encode_classes(outputs, len(examples))

    def values(self, key: str, examples: np.ndarray) -> list[float]:
        """Compute a number for each of serialized examples.

        Args:
            key: the signature.
            examples: strings of shape (examples,), each a serialized `tf.Example`.

        Returns:
            One number an example.

        Raises:
            ServingError: the signature is not for regression, or the graph fails.
        """
        outputs = run(self._for_examples(key, "regression"), {"inputs": examples})
        if "outputs" not in outputs:
            raise ServingError("No regression outputs found in SignatureDef", "FAILED_PRECONDITION")
        return encode_values(outputs["outputs"], len(examples))

    def _for_examples(self, key: str, task: str) -> Signature:
        """The signature a classify or regress request asks for."""
        if key not in self.signatures:
            raise ServingError(f"No signature was found with the name: {key}")
        signature = self.signatures[key]
        if signature.method_name != METHODS[task]:
            raise ServingError(
                f"Expected {task} signature method_name to be {METHODS[task]}. "
                f"Was: {signature.method_name}"
            )
        if list(signature.definition.inputs) != ["inputs"]:
            raise ServingError("Expected one input Tensor.")
        signature.codec.inputs["inputs"].check_dtype(0, "DT_STRING")
        return signature


def signature_name(document: dict[str, Any]) -> str:
    """The signature that a request names, or the default one.

    Raises:
        ServingError: the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise ServingError(
            f"JSON Value: {quote(document)} not formatted correctly. 'signature_name' key must be "
            "a string value."
        )
    return name or DEFAULT_SIGNATURE


def _signature_defs(path: Path) -> dict[str, Any]:
    """The SignatureDefs of a SavedModel, by name."""
    file = path / "saved_model.pb"
    if not file.is_file():
        raise FileNotFoundError(f"a version's folder must hold saved_model.pb. Received: {path}")
    saved_model = saved_model_pb2.SavedModel()
    try:
        saved_model.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's own class of it differs between its versions
        raise ValueError(f"the file is not a SavedModel: {error}. Received: {file}") from error
    for meta_graph in saved_model.meta_graphs:
        if _TAG in meta_graph.meta_info_def.tags:
            return dict(meta_graph.signature_def)
    raise ValueError(f"the SavedModel has no graph with the tag {_TAG!r}. Received: {file}")


def _is_of_tensors(definition: Any) -> bool:
    """Say whether a signature takes and gives tensors: one may name operations, or parts of a tensor."""
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    return all(":" in info.name for info in infos)


def _signature(definition: Any, graph: LoadedGraph) -> Signature:
    inputs = {}
    for name, info in definition.inputs.items():
        shape = info.tensor_shape
        inputs[name] = InputSpec(
            dtype=types_pb2.DataType.Name(info.dtype),
            shape=None if shape.unknown_rank else tuple(dim.size for dim in shape.dim),
            optional=name in definition.defaults,
        )
    function = graph.function(
        {name: info.name for name, info in definition.inputs.items()},
        {name: info.name for name, info in sorted(definition.outputs.items())},
    )
    defaults = {name: tf.make_ndarray(proto) for name, proto in definition.defaults.items()}
    return Signature(definition, function, JsonCodec(inputs), defaults)


def run(signature: Signature, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Call a signature, and turn what TensorFlow complains about into an answer.

    Args:
        signature: what to call.
        tensors: by input name. Inputs that have a default may be left out.

    Returns:
        All outputs by name.

    Raises:
        ServingError: the graph fails.
    """
    try:
        return signature.function({**signature.defaults, **tensors})
    except tf.errors.OpError as error:
        raise ServingError(_message(error), code_name(error.error_code)) from error
    except (TypeError, ValueError) as error:
        raise ServingError(str(error)) from error


def _message(error: Any) -> str:
    """What an operation said, without where the model was built and TensorFlow's own marks."""
    lines = error.message.split("\n")
    kept = "\n".join(line for line in lines if not _WHERE_BUILT.match(line)).strip()
    return re.sub(r" \[Op:\w+\]$", "", kept) or str(error.message)
