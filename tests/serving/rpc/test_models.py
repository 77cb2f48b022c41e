"""Metadata, states and reloading, with the stubs of tensorflow-serving-api."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

States = get_model_status_pb2.ModelVersionStatus.State


def refused(call: Any, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    return caught.value.code().name, caught.value.details()


def states(client: Any, name: str) -> list[tuple[int, str]]:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
    found = client.models.GetModelStatus(request).model_version_status
    return [(each.version, States.Name(each.state)) for each in found]


def reload(client: Any, text: str) -> Any:
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    return client.models.HandleReloadConfigRequest(request, timeout=60)


def metadata_request(name: str, fields: Sequence[str] = ("signature_def",)) -> Any:
    return get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec={"name": name}, metadata_field=fields
    )


def test_metadata(half_plus_two: Any) -> None:
    response = half_plus_two.predictions.GetModelMetadata(metadata_request("half_plus_two"))
    assert response.model_spec.version.value == 123
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def
    assert found["regress_x_to_y"].method_name == "tensorflow/serving/regress"
    assert found["serving_default"].inputs["x"].name == "x:0"


def test_metadata_that_there_is_not(client: Any) -> None:
    call = client.predictions.GetModelMetadata
    assert refused(call, get_model_metadata_pb2.GetModelMetadataRequest()) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )
    assert refused(call, metadata_request("echo", ())) == (
        "INVALID_ARGUMENT",
        "GetModelMetadataRequest must specify at least one metadata_field",
    )
    assert refused(call, metadata_request("echo", ["weights"])) == (
        "INVALID_ARGUMENT",
        "Metadata field weights is not supported",
    )
    assert refused(call, metadata_request("nothing"))[0] == "NOT_FOUND"


def test_states(client: Any) -> None:
    assert states(client, "echo") == [(10, "AVAILABLE")]
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "empty_version"})
    (broken,) = client.models.GetModelStatus(request).model_version_status
    assert broken.status.error_code == 5  # NOT_FOUND
    assert "saved_model.pb" in broken.status.error_message
    call = client.models.GetModelStatus
    request = get_model_status_pb2.GetModelStatusRequest
    assert refused(call, request()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert refused(call, request(model_spec={"name": "nothing"})) == (
        "NOT_FOUND",
        "Could not find any versions of model nothing",
    )
    assert refused(call, request(model_spec={"name": "echo", "version": {"value": 3}})) == (
        "NOT_FOUND",
        "Could not find version 3 of model echo",
    )


@pytest.fixture(scope="module")
def own_client(models_folder: Path, run_server: Any, tmp_path_factory: Any) -> Any:
    """A server whose models the tests may change."""
    folder = tmp_path_factory.mktemp("reloaded")
    for version in ("1", "2", "10"):
        shutil.copytree(models_folder / "echo" / version, folder / "echo" / version)
    shutil.copytree(models_folder / "broken", folder / "broken")
    with run_server(folder, poll_seconds=0) as client:
        yield client


def test_a_reload_loads_nothing_twice(own_client: Any) -> None:
    before = own_client.app.state.store.lookup("echo")
    reload(
        own_client,
        'model_config_list { config { name: "echo" base_path: "echo" model_type: TENSORFLOW } }',
    )
    assert own_client.app.state.store.lookup("echo") is before


def test_reload(own_client: Any) -> None:
    echo = 'name: "echo" base_path: "echo" model_platform: "tensorflow"'
    response = reload(
        own_client,
        f"""model_config_list {{ config {{ {echo}
            model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
            version_labels {{ key: "stable" value: 1 }}
            version_labels {{ key: "canary" value: 2 }} }} }}""",
    )
    assert response.status.error_code == 0
    assert dict(states(own_client, "echo")) == {10: "END", 2: "AVAILABLE", 1: "AVAILABLE"}
    for path, greeting in (("/labels/stable", "old"), ("/labels/canary", "hi"), ("", "hi")):
        answer = own_client.post(f"/v1/models/echo{path}:predict", {"instances": [{"prompt": "a"}]})
        assert answer[1]["predictions"][0]["text"] == f"{greeting} a 7"
    assert (
        own_client.get("/v1/models/echo/labels/stable")[1]["model_version_status"][0]["version"]
        == "1"
    )
    metadata = own_client.get("/v1/models/echo/labels/stable/metadata")[1]
    assert metadata["model_spec"]["version"] == "1"
    # A label is given to what is served, and to nothing else; the old ones stay.
    with pytest.raises(grpc.RpcError) as caught:
        reload(
            own_client,
            f'model_config_list {{ config {{ {echo} version_labels {{ key: "stable" value: 7 }}'
            "model_version_policy { specific { versions: 1 } } } }",
        )
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == (
        "Request to assign label to version 7 of model echo, "
        "which is not currently available for inference"
    )
    assert own_client.get("/v1/models/echo/labels/stable")[0] == 200


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "INVALID_ARGUMENT", "Only ModelConfigList is currently supported"),
        ("custom_model_config {}", "INVALID_ARGUMENT", "Only ModelConfigList"),
        (
            'model_config_list { config { name: "a" base_path: "echo" } }',
            "INVALID_ARGUMENT",
            "Illegal setting neither",
        ),
        (
            'model_config_list { config { name: "a" base_path: "echo" model_platform: "x" } }',
            "INVALID_ARGUMENT",
            "Model a requests unsupported platform x",
        ),
        ("model_config_list { config { } }", "INVALID_ARGUMENT", "has no name"),
        (
            'model_config_list { config { name: "a" model_type: TENSORFLOW } }',
            "INVALID_ARGUMENT",
            "has no base_path",
        ),
        (
            "model_config_list {"
            + 'config { name: "a" base_path: "echo" model_platform: "tensorflow" }' * 2
            + "}",
            "INVALID_ARGUMENT",
            "Illegal to list model a multiple times in config list",
        ),
        (
            'model_config_list { config { name: "a" base_path: "away" model_type: TENSORFLOW } }',
            "INVALID_ARGUMENT",
            "Could not find base path away",
        ),
        (
            'model_config_list { config { name: "a" base_path: "broken" model_type: TENSORFLOW } }',
            "UNKNOWN",
            "Some models did not become available: {a}",
        ),
    ],
)
def test_reloads_that_are_refused(own_client: Any, text: str, code: str, words: str) -> None:
    with pytest.raises(grpc.RpcError, match=words) as caught:
        reload(own_client, text)
    assert caught.value.code().name == code


@pytest.mark.parametrize("path", ["/etc", "..", "echo/../..", "/models/../etc", "link", "/"])
def test_no_reload_leaves_the_folder(own_client: Any, path: str, tmp_path: Path) -> None:
    folder = Path(own_client.app.state.store._folder)
    if path == "link":
        (folder / "link").symlink_to(tmp_path)
    with pytest.raises(grpc.RpcError) as caught:
        reload(
            own_client,
            f'model_config_list {{ config {{ name: "a" base_path: "{path}"'
            'model_platform: "tensorflow" } }',
        )
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "must lie in a folder that the server was started with" in caught.value.details()


@pytest.mark.parametrize("path", ["a\\000b", "x" * 5000])
def test_no_paths_at_all(own_client: Any, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        reload(
            own_client,
            f'model_config_list {{ config {{ name: "a" base_path: "{path}"'
            'model_platform: "tensorflow" } }',
        )
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
