"""The requests that warm a server up: what they are, and that nothing is compiled after them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_gpt import GPT, Tokenizer
from keras_gpt.export.warmup_records import WARMUP_FILE, PredictRequest, write_warmup_records
from keras_gpt.export.warmup_requests import _covering, _text
from keras_gpt.generation.cache import RECENT_SLOTS, length_bucket, length_buckets

CONTEXT, MAX_NEW_TOKENS = 64, 40  # of `limited`


def read_requests(folder: Path) -> list[Any]:
    """Read the records with the messages of TensorFlow Serving's own package."""
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    requests = []
    for record in tf.data.TFRecordDataset(str(folder / WARMUP_FILE)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        requests.append(log.predict_log.request)
    return requests


def test_every_input_stands_in_every_request_once_for_each_row(
    limited_gpt: GPT, limited: Path, read_graph: Callable[[Path], Any]
) -> None:
    """A server that batches takes no others; every bucket and batch is asked for."""
    definitions = read_graph(limited).signature_def
    requests = read_requests(limited)
    assert len(requests) < 1000  # the most that TensorFlow Serving reads
    asked = set()
    for request in requests:
        assert request.model_spec.name == "tiny"
        signature = definitions[request.model_spec.signature_name]
        arrays = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert set(arrays) == set(signature.inputs)
        for name, array in arrays.items():
            assert tf.as_dtype(signature.inputs[name].dtype) == tf.as_dtype(array.dtype)
        (rows,) = {len(array) for array in arrays.values()}
        text = arrays["prompt" if "prompt" in arrays else "text"][0].decode()
        length = len(limited_gpt.tokenizer.encode(text))
        asked.add((request.model_spec.signature_name, rows, length_bucket(length, CONTEXT)))
        if "max_new_tokens" in arrays:
            assert arrays["max_new_tokens"].max() <= MAX_NEW_TOKENS
    assert asked == {
        (name, rows, length)
        for name in ("generate", "score", "embed")
        for rows in (1, 2, 4)
        for length in length_buckets(CONTEXT)
    }


# Loads a model into a session, as TensorFlow Serving does, and plays the records and then other
# requests, with a line between them in what TensorFlow says about XLA's work.
_SCRIPT = """
import json, sys
folder, file = sys.argv[1:]
import tensorflow as tf
tf.compat.v1.disable_eager_execution()
session = tf.compat.v1.Session()
definitions = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def
for requests in json.load(open(file)):
    for name, inputs in requests:
        definition = definitions[name]
        given = {definition.inputs[key].name: value for key, value in inputs.items()}
        session.run({key: info.name for key, info in definition.outputs.items()}, given)
    print("== played", file=sys.stderr, flush=True)
"""


@pytest.mark.slow  # a minute or two: it compiles every shape
def test_nothing_is_compiled_after_it(limited_gpt: GPT, limited: Path, tmp_path: Path) -> None:
    """Other lengths, numbers of rows and settings, up to the limits, run what is there."""
    warmup = []
    for request in read_requests(limited):
        arrays = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        warmup.append((request.model_spec.signature_name, arrays))
    random = np.random.default_rng(0)
    others: list[tuple[str, dict[str, Any]]] = []
    settings = {name: value[:1] for name, value in warmup[0][1].items() if name != "prompt"}
    for length, new, rows, changes in (
        (1, 40, 1, {"temperature": 1.0, "top_k": 3}),
        (20, 40, 3, {"temperature": 0.0}),
        (33, 31, 2, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "top_p": 0.5}),
        (47, 12, 3, {"temperature": 2.0, "logprobs": 4, "stop": [["zzz", "yyy"]]}),
        (63, 1, 1, {"presence_penalty": 0.5, "seed": 7}),
    ):
        given = {**settings, "max_new_tokens": new, "min_new_tokens": int(random.integers(new))}
        given.update(changes)
        inputs = {
            name: np.reshape(value, np.shape(settings[name])[:1] + np.shape(value)[1:])
            for name, value in given.items()
        }
        request = {"prompt": [_text(limited_gpt.tokenizer, length)] * rows, **inputs}
        others += [("serving_default", request), ("generate", request)]
    texts = [_text(limited_gpt.tokenizer, length) for length in (5, 40)]
    others += [
        ("generate_with_defaults", {"prompt": texts[:1]}),
        ("score", {"text": texts, "given": ["The quick"]}),
        ("embed", {"text": texts, "pooling": ["last"], "normalize": [False]}),
    ]

    def plain(requests: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        return [
            (name, {key: _plain(value) for key, value in inputs.items()})
            for name, inputs in requests
        ]

    (tmp_path / "requests.json").write_text(json.dumps([plain(warmup), plain(others)]))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, limited, tmp_path / "requests.json"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "0",
            "TF_CPP_VMODULE": "device_compilation_profiler=1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    in_warmup, in_others, _ = done.stderr.split("== played")
    compiled = re.compile(r"device_compilation_profiler.*Compiled (\w+) ")
    assert len(compiled.findall(in_warmup)) > 20
    assert compiled.findall(in_others) == []


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        array = np.vectorize(lambda each: each.decode() if isinstance(each, bytes) else each)(array)
    return array.tolist()


def run_of(length: int, new: int, context: int) -> set[tuple[str, int]]:
    """Give the programs that an answer runs, token after token, as the loop does."""
    past, read, slot = length_bucket(length, context), length, 0
    programs = {("first", past)}
    for _ in range(1, new):
        if slot == RECENT_SLOTS:
            read += RECENT_SLOTS
            past = max(past, length_bucket(min(read, context), context))
            programs.add(("fold", past))
            slot = 0
        programs.add(("next", past))
        slot += 1
    return programs


@pytest.mark.parametrize("context", [1, 2, 31, 32, 33, 48, 64, 66, 100, 128, 130, 200])
@pytest.mark.parametrize("most_new", [1, 20, 33, 70, 200])
def test_the_chosen_answers_run_all_programs(context: int, most_new: int) -> None:
    """As much as all possible ones together, none of which is beyond the limits."""
    most_new = min(most_new, context)
    possible: set[tuple[str, int]] = set()
    for length in range(1, context):
        for new in range(1, min(most_new, context - length) + 1):
            possible |= run_of(length, new, context)
    chosen = _covering(context, most_new)
    assert all(length + new <= context and new <= most_new for length, new in chosen)
    assert set().union(*(run_of(*run, context) for run in chosen)) == possible


def test_texts_have_the_lengths_that_are_asked_for(words: Tokenizer) -> None:
    """Here every one is reached."""
    for length in (1, 2, 7, 32, 100):
        assert len(words.encode(_text(words, length))) == length


def test_no_requests_no_file(tmp_path: Path) -> None:
    """TensorFlow Serving takes a model without as well as one with."""
    write_warmup_records(tmp_path / "none", "name", [])
    assert not (tmp_path / "none").exists()


def test_a_long_field_is_encoded_whole(tmp_path: Path) -> None:
    """Its length takes more than one byte."""
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    text = "long " * 40_000
    path = tmp_path / "records"
    write_warmup_records(path, "名", [PredictRequest("score", {"text": np.array([text], object)})])
    (record,) = tf.data.TFRecordDataset(str(path))
    request = logs.PredictionLog.FromString(record.numpy()).predict_log.request
    assert request.model_spec.name == "名"
    assert tf.make_ndarray(request.inputs["text"])[0].decode() == text
