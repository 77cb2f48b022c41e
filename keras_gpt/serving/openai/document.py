"""The OpenAPI document of the API: what each path takes, and the form of its errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from keras_gpt.serving.openai.schemas import (
    AttentionRequest,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Part,
)

_PLACE = "#/components/schemas/"
_BODIES: dict[str, type[Part]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/v1/attention": AttentionRequest,
}
_TEXT_OR_NOTHING = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _TEXT_OR_NOTHING,
                "code": _TEXT_OR_NOTHING,
            },
        }
    },
}


def describe(app: FastAPI, model: str) -> dict[str, Any]:
    """Give the document of an application that reads its bodies itself.

    Args:
        app: it.
        model: the name of the one that answers.
    """
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in _BODIES.values()], ref_template=_PLACE + "{model}"
    )
    for kind in _BODIES.values():
        schemas["$defs"][kind.__name__]["properties"]["model"]["enum"] = [model]
    document["components"] = {"schemas": {**schemas["$defs"], "Error": _ERROR}}
    error = {"description": "Not answered", "content": _json({"$ref": f"{_PLACE}Error"})}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own; here it is 400
            operation["responses"]["default"] = error
            if path in _BODIES:
                reference = {"$ref": _PLACE + _BODIES[path].__name__}
                operation["requestBody"] = {"required": True, "content": _json(reference)}
                if "stream" in _BODIES[path].model_fields:
                    operation["responses"]["200"]["content"]["text/event-stream"] = {}
    return document


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
