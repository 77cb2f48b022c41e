"""Versions that appear, disappear and change while requests are answered."""

import gc
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.store import ModelStore


@pytest.fixture
def put(models_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Put a version of the model "echo" into a folder: 1 says "old", 2 "hi", 10 "hello"."""

    def put_version(source: int, version: int, name: str = "echo") -> Path:
        target = tmp_path / name / str(version)
        shutil.copytree(models_folder / "echo" / str(source), target)
        return target

    return put_version


def text(store: ModelStore, *version: Any) -> str:
    answer = store.lookup("echo", *version).predict({"instances": [{"prompt": "a"}]})
    return str(answer["predictions"][0]["text"])


def states(store: ModelStore, name: str = "echo") -> dict[int, str]:
    return {number: state.state for number, state in store.states(name).items()}


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_later_version_replaces_the_earlier(put: Any, tmp_path: Path) -> None:
    put(1, 1)
    store = ModelStore(tmp_path)
    held = store.lookup("echo")
    gone = weakref.ref(held.signatures["serving_default"].function.func.__self__)
    put(2, 2)
    store.refresh()
    assert text(store) == "hi a 7"
    # Whoever has begun with the old one ends with it.
    assert states(store) == {2: "AVAILABLE", 1: "UNLOADING"}
    assert held.predict({"instances": [{"prompt": "a"}]})["predictions"][0]["text"] == "old a 7"
    del held
    assert states(store) == {2: "AVAILABLE", 1: "END"}
    with pytest.raises(ServingError, match=r"Specific\(echo, 1\)"):
        store.lookup("echo", 1)
    gc.collect()
    assert gone() is None, "the memory of an unloaded version is free"


def test_a_removed_version_gives_way_to_the_one_before(put: Any, tmp_path: Path) -> None:
    put(1, 1)
    later = put(2, 2)
    store = ModelStore(tmp_path)
    assert text(store) == "hi a 7"
    shutil.rmtree(later)
    store.refresh()
    assert text(store) == "old a 7"
    assert states(store) == {2: "END", 1: "AVAILABLE"}


def test_a_broken_version_leaves_the_old_one_and_is_tried_again_when_it_changes(
    put: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(1, 1)
    store = ModelStore(tmp_path)
    # A copy that is under way: the graph is there, the variables are not yet.
    whole = put(2, 2, "elsewhere") / "variables"
    shutil.copytree(whole.parent, tmp_path / "echo" / "2", ignore=lambda *_: ["variables"])
    with caplog.at_level(logging.ERROR, logger="keras_gpt.serving"):
        store.refresh()
        store.refresh()
    assert text(store) == "old a 7"
    assert states(store) == {2: "END", 1: "AVAILABLE"}
    assert store.states("echo")[2].error_code == "NOT_FOUND"
    tries = [r for r in caplog.records if "echo version 2 could not be loaded" in r.message]
    assert len(tries) == 1, "what has not changed is not tried again"
    shutil.copytree(whole, tmp_path / "echo" / "2" / "variables")
    store.refresh()
    assert text(store) == "hi a 7"


def test_a_version_that_comes_to_lie_elsewhere_is_loaded_anew(
    put: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "models" / "echo" / "1"
    link.parent.mkdir(parents=True)
    link.symlink_to(put(1, 1, "builds"))
    store = ModelStore(tmp_path / "models")
    first = store.lookup("echo")
    store.refresh()
    assert store.lookup("echo") is first
    (tmp_path / "builds" / "broken").mkdir()
    for target in (tmp_path / "builds" / "broken", put(2, 2, "builds")):
        link.unlink()
        link.symlink_to(target)
        store.refresh()
        store.refresh()
        assert text(store) == ("hi a 7" if target.name == "2" else "old a 7")
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_models_come_and_go(put: Any, tmp_path: Path) -> None:
    put(1, 1)
    store = ModelStore(tmp_path)
    put(2, 1, "another")
    store.refresh()
    assert [servable.name for servable in store.servables()] == ["another", "echo"]
    shutil.rmtree(tmp_path / "echo")
    store.refresh()
    assert [servable.name for servable in store.servables()] == ["another"]
    assert states(store) == {1: "END"}


def test_a_folder_that_is_away_takes_nothing_down(put: Any, tmp_path: Path) -> None:
    put(1, 1, "models/echo")
    store = ModelStore(tmp_path / "models")
    (tmp_path / "models").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        store.refresh()
    assert text(store) == "old a 7"
    store.watch(0.01)
    time.sleep(0.1)
    (tmp_path / "away").rename(tmp_path / "models")
    put(2, 2, "models/echo")
    until(lambda: text(store) == "hi a 7")
    store.close()


def test_a_config_says_what_is_served(put: Any, tmp_path: Path) -> None:
    for version in (1, 2, 10):
        put(version, version)
    put(1, 1, "not_listed")
    config = tmp_path / "models.config"
    config.write_text("""model_config_list { config { name: "echo" base_path: "/models/echo"
        model_platform: "tensorflow" model_version_policy { latest { num_versions: 2 } }
        version_labels { key: "stable" value: 2 } } }""")
    store = ModelStore(tmp_path, config)
    assert [(s.name, s.version) for s in store.servables()] == [("echo", 2), ("echo", 10)]
    assert text(store) == "hello a 7"
    assert text(store, None, "stable") == text(store, 2) == "hi a 7"
    put(1, 11)
    store.refresh()
    assert text(store) == "old a 7"
    # The label's version was unloaded; it is not given to another one.
    with pytest.raises(ServingError, match=r"Specific\(echo, 2\)"):
        store.lookup("echo", label="stable")
    config.write_text(
        'model_config_list { config { name: "x" base_path: "x" model_platform: "t" } }'
    )
    with pytest.raises(ValueError, match="unsupported platform t"):
        ModelStore(tmp_path, config)


def test_warm_up_requests_are_answered_before_the_version_is_served(
    put: Any, tmp_path: Path
) -> None:
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "echo"
    request.inputs["prompt"].CopyFrom(tf.make_tensor_proto(["warm"]))
    write_warm_up(put(2, 2), log)
    store = ModelStore(tmp_path)
    assert text(store) == "hi a 7"
    # A model that does not answer its own requests is not served.
    request.inputs["nothing"].CopyFrom(tf.make_tensor_proto([1]))
    write_warm_up(put(10, 10), log)
    store.refresh()
    assert states(store) == {10: "END", 2: "AVAILABLE"}
    assert store.states("echo")[10].error_code == "INVALID_ARGUMENT"
    assert "request input: nothing,prompt" in store.states("echo")[10].error_message
    write_warm_up(put(10, 11), prediction_log_pb2.PredictionLog())
    store.refresh()
    assert store.states("echo")[11].error_code == "UNIMPLEMENTED"
    assert ModelStore(tmp_path, warmup=False).lookup("echo").version == 11


def write_warm_up(version: Path, log: Any) -> None:
    (version / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version / "assets.extra/tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


def test_no_request_fails_while_versions_are_swapped(
    put: Any, tmp_path: Path, run_server: Any
) -> None:
    """REST and gRPC clients ask on and on; four swaps happen beneath them."""
    put(1, 1)
    failures: list[Any] = []
    counts = [0, 0]
    greetings: set[str] = set()
    ended = threading.Event()
    with run_server(tmp_path, poll_seconds=0.05) as client:

        def rest() -> None:
            while not ended.is_set():
                try:
                    status, answer = client.post(
                        "/v1/models/echo:predict", {"instances": [{"prompt": "a"}]}
                    )
                except OSError as error:  # no connection
                    status, answer = 0, error
                if status != 200:
                    failures.append(answer)
                counts[0] += 1

        def rpc() -> None:
            request = predict_pb2.PredictRequest(model_spec={"name": "echo"})
            request.inputs["prompt"].CopyFrom(tf.make_tensor_proto(["a"]))
            while not ended.is_set():
                try:
                    found = client.predictions.Predict(request).outputs["text"].string_val[0]
                    greetings.add(found.decode().split()[0])
                except Exception as error:
                    failures.append(error)
                counts[1] += 1

        threads = [threading.Thread(target=each) for each in (rest, rpc, rpc)]
        for thread in threads:
            thread.start()
        store = client.app.state.store
        for source, version in ((2, 2), (10, 3), (1, 4), (2, 5)):
            # Whole or not at all, as a careful publisher does it.
            put(source, version, "aside").rename(tmp_path / "echo" / str(version))
            until(lambda version=version: store.lookup("echo").version == version)
        time.sleep(0.1)
        ended.set()
        for thread in threads:
            thread.join()
        until(lambda: states(store) == {5: "AVAILABLE", **dict.fromkeys(range(1, 5), "END")})
    assert not failures
    assert min(counts) > 10
    assert greetings == {"old", "hi", "hello"}
