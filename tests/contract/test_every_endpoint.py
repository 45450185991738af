"""What holds for every endpoint of the table."""

import json

import pytest

import contract
from contract.endpoints import Endpoint

WITH_A_MODEL = [endpoint for endpoint in contract.ENDPOINTS if "model" in getattr(endpoint.request, "model_fields", ())]


def test_every_endpoint_has_a_path_and_method_of_its_own() -> None:
    paths = [(endpoint.path, endpoint.method) for endpoint in contract.ENDPOINTS]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("endpoint", WITH_A_MODEL, ids=lambda endpoint: endpoint.path)
def test_a_model_that_is_not_served_is_404_and_the_served_ones_are_named(endpoint: Endpoint) -> None:
    body = json.dumps(endpoint.example | {"model": "other"}).encode()
    with pytest.raises(contract.Refusal, match=r"'other' does not exist here. Served: small, org/small\.") as refused:
        endpoint.parse(contract.Incoming(body, models=("small", "org/small")))
    assert (refused.value.status, refused.value.param, refused.value.code) == (404, "model", "model_not_found")
