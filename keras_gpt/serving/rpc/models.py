"""GetModelMetadata, GetModelStatus and HandleReloadConfigRequest: about models, not with them."""

from typing import Any

from tensorflow.core.lib.core import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.servable import Servable
from keras_gpt.serving.store import ModelStore

_SIGNATURES = "signature_def"


def find(store: ModelStore, spec: Any) -> Servable:
    """Find the model that a request is for.

    Args:
        store: the models.
        spec: the request's ModelSpec.

    Returns:
        The model.

    Raises:
        ServingError: no name is given, or no such model is loaded.
    """
    if not spec.name:
        raise ServingError("ModelSpec has no name specified.")
    return store.lookup(spec.name, *_version(spec))


def metadata(store: ModelStore, request: Any) -> Any:
    """Answer a GetModelMetadata request.

    Args:
        store: the models.
        request: a GetModelMetadataRequest; `signature_def` is what there is to ask for.

    Returns:
        A GetModelMetadataResponse.

    Raises:
        ServingError: no such model, or another metadata field is asked for.
    """
    _check_spec(request)
    if not request.metadata_field:
        raise ServingError("GetModelMetadataRequest must specify at least one metadata_field")
    for name in request.metadata_field:
        if name != _SIGNATURES:
            raise ServingError(f"Metadata field {name} is not supported")
    servable = find(store, request.model_spec)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, definition in servable.definitions.items():
        signatures.signature_def[key].CopyFrom(definition)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.metadata[_SIGNATURES].Pack(signatures)
    return response


def status(store: ModelStore, request: Any) -> Any:
    """Answer a GetModelStatus request.

    Args:
        store: the models.
        request: a GetModelStatusRequest.

    Returns:
        A GetModelStatusResponse.

    Raises:
        ServingError: no such model, version or label.
    """
    _check_spec(request)
    response = get_model_status_pb2.GetModelStatusResponse()
    spec = request.model_spec
    for number, state in store.states(spec.name, *_version(spec)).items():
        response.model_version_status.add(
            version=number,
            state=get_model_status_pb2.ModelVersionStatus.State.Value(state.state),
            status={
                "error_code": error_codes_pb2.Code.Value(state.error_code),
                "error_message": state.error_message,
            },
        )
    return response


def reload(store: ModelStore, request: Any) -> Any:
    """Answer a HandleReloadConfigRequest request.

    Args:
        store: the models.
        request: a ReloadConfigRequest; its base paths must be ones that the store permits.

    Returns:
        A ReloadConfigResponse.

    Raises:
        ServingError: the configuration is refused, or a model of it cannot be loaded.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise ServingError(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    store.reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    return response


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise ServingError("Missing ModelSpec")


def _version(spec: Any) -> tuple[int | None, str | None]:
    """The version and the label that a request asks for; at most one of them."""
    kind = spec.WhichOneof("version_choice")
    return (
        spec.version.value if kind == "version" else None,
        spec.version_label if kind == "version_label" else None,
    )
