"""lm-eval, imitated: the log likelihood of the model's own words, and of others."""

import json
import urllib.request
from typing import Any

from study.clients.checks import BASE, QUESTION, V1, check, expect
from study.clients.lm_eval import loglikelihoods


def post(url: str, **body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def log_likelihoods() -> str:
    context = post(f"{BASE}/tokenize", prompt=QUESTION)["tokens"]
    answer = post(f"{V1}/completions", prompt=context, max_tokens=5, temperature=0, return_token_ids=True)
    own = answer["choices"][0]["token_ids"]
    (likely, is_greedy), (unlikely, is_not) = loglikelihoods(BASE, [(context, own), (context, own[::-1])])
    expect(is_greedy and not is_not and likely > unlikely, f"its own words to be likelier: {likely}, {unlikely}")
    return f"{likely:.2f} against {unlikely:.2f}"


check("log likelihoods through completions with echo", log_likelihoods)
