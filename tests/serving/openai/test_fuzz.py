"""Requests made from the OpenAPI document by schemathesis: every answer is one that it describes."""

import pytest
from hypothesis import HealthCheck, settings
from openai_server import Running

schemathesis = pytest.importorskip("schemathesis")
of_openapi = pytest.importorskip("schemathesis.specs.openapi.checks")

CHECKS = [
    schemathesis.checks.not_a_server_error,
    of_openapi.status_code_conformance,
    of_openapi.content_type_conformance,
    of_openapi.response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(server: Running) -> object:
    return schemathesis.openapi.from_url(f"{server.address}/openapi.json")


document_of = schemathesis.pytest.from_fixture("document")


@document_of.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_few_requests(case):
    case.call_and_validate(checks=CHECKS, timeout=60)


@pytest.mark.slow
@document_of.parametrize()
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_requests(case):
    case.call_and_validate(checks=CHECKS, timeout=60)
