"""Requests made from the OpenAPI document by schemathesis: every answer is one that it describes."""

import pytest
from hypothesis import HealthCheck, given, settings
from openai_server import Running

schemathesis = pytest.importorskip("schemathesis")
of_openapi = pytest.importorskip("schemathesis.specs.openapi.checks")

CHECKS = [
    schemathesis.checks.not_a_server_error,
    of_openapi.status_code_conformance,
    of_openapi.content_type_conformance,
    of_openapi.response_schema_conformance,
]


def ask(server: Running, max_examples: int) -> set[str]:
    """Ask for every operation so many times; give the operations."""
    document = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    names = set()
    for operation in (result.ok() for result in document.get_all_operations()):

        @given(operation.as_strategy())
        @settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck))
        def holds(case):
            case.call_and_validate(checks=CHECKS, timeout=60)

        holds()
        names.add(operation.label)
    return names


@pytest.mark.slow
def test_requests_of_every_kind(server):
    assert {"POST /v1/completions", "POST /v1/chat/completions"} <= ask(server, 200)
