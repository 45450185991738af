"""An imitation of lm-eval's `local-completions`: how it sends a loglikelihood request, and how it reads the answer.

Source: lm-evaluation-harness 0.4, lm_eval/models/openai_completions.py, `parse_logprobs` and `_create_payload`.
"""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, Client
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def loglikelihoods(client: Client, requests: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """For each context and continuation: the log probability of the continuation, and whether it is the greedy one."""
    payload = {
        "prompt": [context + continuation for context, continuation in requests],
        "model": "bundled_model",
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
        "temperature": 0,
    }
    response = await client.request("POST", "/v1/completions", json.dumps(payload).encode(), JSON)
    assert response.status == 200, response.body
    choices = sorted(response.json()["choices"], key=lambda choice: choice["index"])
    return [parsed(choice, len(context)) for choice, (context, _) in zip(choices, requests, strict=True)]


def parsed(choice: dict[str, Any], context_length: int) -> tuple[float, bool]:
    """As lm-eval reads it: the lists have an entry for every token of the prompt, and one for the token after it."""
    logprobs = choice["logprobs"]["token_logprobs"][context_length:-1]
    top = choice["logprobs"]["top_logprobs"][context_length:-1]
    tokens = choice["logprobs"]["tokens"][context_length:-1]
    is_greedy = all(
        max(alternatives, key=lambda token: alternatives[token]) == token
        for token, alternatives in zip(tokens, top, strict=True)
    )
    return sum(logprobs), is_greedy


async def test_the_lists_are_as_long_as_the_harness_expects(door: Door) -> None:
    async with by_hand(door, ScriptedEngine()) as service:
        answers = await loglikelihoods(service.client, [([5, 6], [7]), ([5], [6, 7, 8])])
    assert answers == [(-0.5, True), (-1.5, True)]
