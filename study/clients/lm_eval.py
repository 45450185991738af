"""An imitation of lm-eval's `local-completions`: how it sends loglikelihood requests, and how it reads the answer.

Source: lm-evaluation-harness 0.4, lm_eval/models/openai_completions.py, `parse_logprobs` and `_create_payload`.
"""

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

LIMIT = 600.0
"""Seconds that an answer may take."""


def loglikelihoods(address: str, requests: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    """For each context and continuation: the log probability of the continuation, and whether it is the greedy one."""
    payload = {
        "prompt": [context + continuation for context, continuation in requests],
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(payload).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=LIMIT) as response:
        answer = json.load(response)
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    return [_parsed(choice, len(context)) for choice, (context, _) in zip(choices, requests, strict=True)]


def _parsed(choice: dict[str, Any], context_length: int) -> tuple[float, bool]:
    """The lists have an entry for every token of the prompt, and one for the token after it, which is left out."""
    logprobs = choice["logprobs"]["token_logprobs"][context_length:-1]
    top = choice["logprobs"]["top_logprobs"][context_length:-1]
    is_greedy = all(logprob == max(alternatives.values()) for logprob, alternatives in zip(logprobs, top, strict=True))
    return sum(logprobs), is_greedy
