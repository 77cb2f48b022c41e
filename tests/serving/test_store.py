"""What is found in a folder, what is loaded, and what is said of the rest."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.sample_request import curl_line, sample_request
from keras_gpt.serving.servable import Servable
from keras_gpt.serving.store import ModelStore


@pytest.fixture(scope="module")
def store(models_folder: Path) -> ModelStore:
    return ModelStore(models_folder)


def test_the_latest_version_of_each_model_is_loaded(store: ModelStore) -> None:
    assert [(s.name, s.version) for s in store.servables()] == [
        ("echo", 10),  # 10 comes after 2 as a number, and before it as a name
        ("kinds", 1),
        ("shapes", 1),
    ]
    assert store.lookup("echo") is store.lookup("echo", 10)
    with pytest.raises(ServingError, match=r"Specific\(echo, 1\)"):
        store.lookup("echo", 1)


def test_leading_zeros_of_a_version(models_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(models_folder / "echo" / "1", tmp_path / "echo" / "00000123")
    assert ModelStore(tmp_path).lookup("echo", 123).version == 123


def test_broken_models_are_named_in_the_log(
    models_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="keras_gpt.serving"):
        store = ModelStore(models_folder)
    assert "model broken version 1 could not be loaded" in caplog.text
    assert "model empty_version version 7 could not be loaded" in caplog.text
    assert "notes: not served" in caplog.text
    with pytest.raises(ServingError, match=r"Latest\(broken\)"):
        store.lookup("broken")


def test_a_model_without_its_variables_is_broken(models_folder: Path, tmp_path: Path) -> None:
    for name in ("bad", "good"):
        shutil.copytree(models_folder / "echo" / "1", tmp_path / name / "1")
    shutil.rmtree(tmp_path / "bad" / "1" / "variables")
    store = ModelStore(tmp_path)
    assert [servable.name for servable in store.servables()] == ["good"]
    assert store.states("bad")[1].state == "END"
    assert store.states("bad")[1].error_message


def test_no_model_that_loads(models_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(models_folder / "broken", tmp_path / "broken")
    with pytest.raises(RuntimeError, match=r"no model could be loaded \(broken: .*Received"):
        ModelStore(tmp_path)


def test_folders_without_models(models_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        ModelStore(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="the folder has no models"):
        ModelStore(tmp_path)
    with pytest.raises(NotADirectoryError):
        ModelStore(models_folder / "models.config")
    for inside in (models_folder / "echo", models_folder / "echo" / "1"):
        with pytest.raises(FileNotFoundError, match="did you mean"):
            ModelStore(inside)


def test_defaults_come_from_the_file(models_folder: Path) -> None:
    signature = Servable("echo", 1, models_folder / "echo" / "1").signatures["serving_default"]
    assert {name: value.tolist() for name, value in signature.defaults.items()} == {
        "temperature": [0.5],
        "seed": [7],
    }
    assert signature.defaults["seed"].dtype == np.int32


def test_a_file_that_is_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold saved_model\.pb"):
        Servable("x", 1, tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not a SavedModel"):
        Servable("x", 1, tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ValueError, match="no graph with the tag"):
        Servable("x", 1, tmp_path)


def test_sample_requests_are_answered(store: ModelStore) -> None:
    for servable in store.servables():
        request = sample_request(servable)
        assert request is not None
        answer = servable.predict(json.loads(json.dumps(request)))
        assert answer.keys() <= {"predictions", "outputs"}
    assert sample_request(store.lookup("echo")) == {"instances": [{"prompt": "Once upon a time"}]}


def test_a_sample_request_of_tensorflow_servings_own_model(half_plus_two_folder: Path) -> None:
    servable = ModelStore(half_plus_two_folder).lookup("half_plus_two")
    assert sample_request(servable) == {"instances": [[1.0]]}
    assert curl_line(servable, "http://127.0.0.1:1") == (
        "curl -d '{\"instances\": [[1.0]]}' http://127.0.0.1:1/v1/models/half_plus_two:predict"
    )
