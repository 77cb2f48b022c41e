"""The Predict method: tensors in, tensors out."""

from collections.abc import Iterable
from typing import Any

from tensorflow_serving.apis import predict_pb2

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.rpc.tensors import read_tensor, write_tensor
from keras_gpt.serving.servable import DEFAULT_SIGNATURE, Servable, Signature, run

_METHODS = tuple(f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))


def predict(servable: Servable, request: Any) -> Any:
    """Answer a Predict request.

    Args:
        servable: the model that it is for.
        request: a PredictRequest. Inputs that have a default in the signature may be left out.

    Returns:
        A PredictResponse.

    Raises:
        ServingError: the request does not fit the signature, or the graph fails on it.
    """
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if key not in servable.definitions:
        raise ServingError(f'Serving signature key "{key}" not found.', "FAILED_PRECONDITION")
    method = servable.definitions[key].method_name
    if method not in _METHODS or key not in servable.signatures:
        # TensorFlow Serving says INTERNAL; but it is the request that names what cannot be run.
        raise ServingError(
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(_METHODS)}}}. Was: {method}",
            "FAILED_PRECONDITION",
        )
    signature = servable.signatures[key]
    _check_inputs(signature, request.inputs)
    aliases = _output_aliases(signature, request.output_filter)
    specs = signature.codec.inputs
    outputs = run(
        signature,
        {
            alias: read_tensor(alias, index, request.inputs[alias], spec)
            for index, (alias, spec) in enumerate(specs.items())
            if alias in request.inputs
        },
    )
    response = predict_pb2.PredictResponse()
    fill_model_spec(response.model_spec, servable, key)
    for alias in aliases:
        write_tensor(outputs[alias], response.outputs[alias])
    return response


def fill_model_spec(spec: Any, servable: Servable, key: str) -> None:
    """Say in an answer which model, version and signature gave it."""
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = key


def _check_inputs(signature: Signature, inputs: Any) -> None:
    """Check that the inputs' names are those of the signature."""
    given, expected = set(inputs), set(signature.codec.inputs)
    if len(given) > len(expected) or (len(given) < len(expected) and not signature.defaults):
        raise ServingError(
            f"input size does not match signature: {len(given)}!={len(expected)} "
            f"len({{{_list(given)}}}) != len({{{_list(expected)}}}). "
            f"Sent extra: {{{_list(given - expected)}}}. "
            f"Missing but required: {{{_list(expected - given)}}}."
        )
    for alias in sorted(expected - given - set(signature.defaults)):
        raise ServingError(
            f"Signature input alias: {alias}"
            f"(feed name: {signature.definition.inputs[alias].name}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {{{_list(given)}}}, "
            f"or default input alias set: {_list(signature.defaults)}"
        )
    if given - expected:
        raise ServingError(
            f"Inputs contains invalid name. Used request inputs: {_list(given & expected)}, "
            f"request input: {_list(given)}"
        )


def _output_aliases(signature: Signature, wanted: Any) -> list[str]:
    """The outputs that a request asks for; all where it names none."""
    known = signature.definition.outputs
    seen: list[str] = []
    for alias in wanted:
        if alias not in known:
            raise ServingError(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{_list(known)}}}."
            )
        if alias in seen:
            raise ServingError(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(known)


def _list(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
