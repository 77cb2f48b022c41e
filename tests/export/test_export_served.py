"""A real GPT behind the embedded server: what a client of TensorFlow Serving sends and gets."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_gpt import GPT

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")


@pytest.fixture(scope="module")
def gpt(make_gpt: Callable[..., GPT]) -> GPT:
    return make_gpt(num_layers=1, context_length=32)


@pytest.fixture(scope="module")
def client(gpt: GPT, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An HTTP client of a server of the exported model."""
    from fastapi.testclient import TestClient

    from keras_gpt.serving import create_app

    folder: Path = tmp_path_factory.mktemp("saved_models")
    gpt.export(folder / "tiny" / "1")
    with TestClient(create_app(folder)) as client:
        yield client


def test_rows_with_their_own_settings_and_with_defaults(gpt: GPT, client: Any) -> None:
    """The row form; a row's settings are its own, and what no row gives has its default."""
    instances = [
        {"prompt": "The quick", "max_new_tokens": 8, "temperature": 0.7, "seed": 1},
        {"prompt": "dog", "max_new_tokens": 3, "temperature": 0.0, "seed": 2},
    ]
    answer = client.post("/v1/models/tiny:predict", json={"instances": instances})
    assert answer.status_code == 200, answer.text
    for row, prediction in zip(instances, answer.json()["predictions"], strict=True):
        settings = {name: value for name, value in row.items() if name != "prompt"}
        assert prediction["text"] == gpt.generate(row["prompt"], **settings)
        assert prediction["num_tokens"] == sum(id_ >= 0 for id_ in prediction["token_ids"])
    alone = client.post("/v1/models/tiny:predict", json={"instances": [{"prompt": "dog"}]})
    assert alone.status_code == 200, alone.text
    assert alone.json()["predictions"][0]["text"].startswith("dog")


def test_columns_and_signatures(gpt: GPT, client: Any) -> None:
    """The column form, with one value for all rows; scores of another signature."""
    inputs = {"prompt": ["The quick", "dog"], "temperature": [0.0], "max_new_tokens": [5]}
    answer = client.post("/v1/models/tiny/versions/1:predict", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    expected = [gpt.generate(p, max_new_tokens=5, temperature=0.0) for p in inputs["prompt"]]
    assert answer.json()["outputs"]["text"] == expected
    request = {"signature_name": "score", "inputs": {"text": ["dog"], "given": ["The quick"]}}
    scored = client.post("/v1/models/tiny:predict", json=request).json()["outputs"]
    expected_score = gpt.score("dog", given="The quick")
    assert scored["log_probability"][0] == pytest.approx(expected_score, rel=1e-4)


def test_errors_of_the_graph_reach_the_client(client: Any) -> None:
    """What is wrong with the request, as a client error."""
    for request, message in (
        ({"instances": [{"prompt": ""}]}, "prompt must not be empty"),
        ({"inputs": {"prompt": ["a"], "temperature": [-1.0]}}, "temperature must be 0 or more"),
        ({"inputs": {"prompt": ["a"], "max_new_tokens": [99]}}, "must fit the context of 32"),
    ):
        answer = client.post("/v1/models/tiny:predict", json=request)
        assert answer.status_code == 400
        assert message in answer.json()["error"]


def test_metadata_names_the_inputs(client: Any) -> None:
    """With the defaults' signature beside the others."""
    metadata = client.get("/v1/models/tiny/metadata").json()["metadata"]
    signatures = metadata["signature_def"]["signature_def"]
    assert {"serving_default", "generate_with_defaults", "score"} <= set(signatures)
    assert set(signatures["serving_default"]["inputs"]) == {
        "prompt",
        "max_new_tokens",
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "no_repeat_ngram_size",
        "min_new_tokens",
        "stop",
        "logprobs",
        "echo",
    }
