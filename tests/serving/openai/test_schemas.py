"""Bodies: whatever comes is read or refused, and the OpenAPI document says which."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.schemas import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    read_as,
)

KINDS = (CompletionRequest, ChatRequest, EmbeddingRequest)
NAMES = sorted({name for kind in KINDS for name in kind.model_fields} | {"tools", "", "a.b", "0"})
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["user", "json_schema", "text", "base64"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "json_schema", "name", "schema", "5"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def refusal(kind: Any, body: bytes) -> ApiError | None:
    try:
        read_as(kind, body)
    except ApiError as error:
        return error
    return None


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_every_object_is_read_or_refused(kind, body):
    base: dict[str, Any] = {"model": "tiny", "input": "a"} if kind is EmbeddingRequest else {}
    base |= {"model": "tiny"}
    for given_body in (body, {**base, **body}):
        error = refusal(kind, json.dumps(given_body).encode())
        if error is not None:
            assert (error.status, bool(error.message), bool(error.code)) == (400, True, True)
            assert len(json.dumps(error.body())) < 5000


@given(st.sampled_from(KINDS), st.binary(max_size=40))
def test_bytes_that_are_no_json(kind, body):
    with pytest.raises(ApiError):
        read_as(kind, body)


def test_settings_are_those_of_the_engine():
    body = {"model": "a", "prompt": "b", "top_p": 0, "top_k": 0, "seed": 2**31 + 5, "stop": None}
    settings = read_as(CompletionRequest, json.dumps(body).encode()).settings()
    assert settings["seed"] == 5
    assert 0 < settings["top_p"] < 1e-5
    assert not {"top_k", "stop", "temperature", "min_p"} & set(settings)


def test_the_document_is_whole(server):
    with server.http() as http:
        document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    bodies = {path for path, each in document["paths"].items() if "requestBody" in str(each)}
    assert bodies == {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/attention",
    }
    references = re.findall(r'"#/([^"]+)"', json.dumps(document))
    assert len(references) > 10
    for reference in references:
        found: Any = document
        for part in reference.split("/"):
            found = found[part]
        assert found
    chat = document["components"]["schemas"]["ChatRequest"]
    assert {"model", "messages"} == set(chat["required"])
