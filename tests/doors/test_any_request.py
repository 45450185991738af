"""Requests that /openapi.json allows, and many that it does not, get answers that it describes.

`make conformance` tries more, and longer, on the bundled model.
"""

import importlib
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.serving import DOORS, on_a_socket

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 5

pytestmark = [
    pytest.mark.timeout(240),
    # Other threads of this process, the server's among them, may draw from the module's own generator meanwhile.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module"),
]


@pytest.mark.parametrize("name", DOORS)
def test_any_request_gets_an_answer_that_the_document_describes(name: str) -> None:
    tried = set()
    with on_a_socket(importlib.import_module(name).create_app, http="httptools") as service:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            for mode in GenerationMode if "requestBody" in operation.definition.raw else [GenerationMode.POSITIVE]:
                ask_at_random(operation, mode)
            tried.add(operation.path)
    assert {"/generate", "/v1/chat/completions", "/v1/messages", "/v1/responses"} <= tried


def ask_at_random(operation: Any, mode: GenerationMode) -> None:
    """Send requests that the document allows, or that it does not, and check every answer."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    ask()
