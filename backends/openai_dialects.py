"""The fields that servers with OpenAI's `/v1/completions` have beyond it.

Most servers silently ignore a field that they do not know. So each field is sent only to servers that know it, and
refused by name for others. From the sources of llama.cpp (tools/server: `server-schema.cpp`, `server-task.cpp`), vLLM
0.32 (`entrypoints/openai/completion/protocol.py`) and SGLang 0.5.23 (`entrypoints/openai/protocol.py`); tried on the
first two.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from interface.errors import UnsupportedFeature
from interface.requests import GenerationRequest, Grammar, SamplingParams

OPENAI_FIELDS = {
    name: name
    for name in (
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "stop",
        "logprobs",
    )
}
COMMON_FIELDS = {name: name for name in ("top_k", "min_p", "ignore_eos")}
PYTHON_FIELDS = {
    name: name
    for name in (
        "min_tokens",
        "repetition_penalty",
        "stop_token_ids",
        "include_stop_str_in_output",
        "skip_special_tokens",
    )
}
"""Fields of vLLM, SGLang and our own doors. SGLang has another name for one of them."""
DEFAULTS = SamplingParams()


@dataclass(frozen=True)
class Dialect:
    """One kind of server."""

    name: str
    fields: Mapping[str, str]
    """The sampling parameters that it has, by our names, and its names for them."""
    grammars: Mapping[str, Callable[[str], dict[str, Any]]]
    """For each kind of grammar, what makes the body's fields out of a source."""
    extras: Mapping[str, Any]
    """Fields of every body."""
    tokenizer: str | None = None
    """Whose `/tokenize` it has: "llama.cpp" or "vllm"; None if it has none."""
    no_top_k: int = 0
    """The value of `top_k` that means no limit."""

    def body_of(self, request: GenerationRequest) -> dict[str, Any]:
        """A request's parameters, without prompt, model and limit.

        Raises:
            UnsupportedFeature: the server cannot do what the request asks for; the message names it.
        """
        body = dict(self.extras)
        for name in SamplingParams.model_fields:
            value = getattr(request.params, name)
            if name == "max_tokens" or value == getattr(DEFAULTS, name):
                continue
            if name not in self.fields:
                raise UnsupportedFeature(f"{name}: the engine's server ({self.name}) does not have it.", name)
            body[self.fields[name]] = self._as_json(name, value)
        return body | self._grammar_of(request.grammar)

    def _grammar_of(self, grammar: Grammar | None) -> dict[str, Any]:
        if grammar is None:
            return {}
        if grammar.kind not in self.grammars:
            raise UnsupportedFeature(
                f"The engine's server ({self.name}) cannot hold an answer to a grammar of the kind {grammar.kind}.",
                grammar.param,
            )
        return self.grammars[grammar.kind](grammar.source)

    def _as_json(self, name: str, value: Any) -> Any:
        if name == "logit_bias":
            return {str(token_id): bias for token_id, bias in value.items()}
        return self.no_top_k if name == "top_k" and value == 0 else value


def _structured(kind: str, read: Callable[[str], Any] = str) -> Callable[[str], dict[str, Any]]:
    return lambda source: {"structured_outputs": {kind: read(source)}}


PLAIN = Dialect("of a kind that is not known here", OPENAI_FIELDS, {}, {})
LLAMA_CPP = Dialect(
    "llama.cpp",
    OPENAI_FIELDS | COMMON_FIELDS | {"repetition_penalty": "repeat_penalty"},
    {"json_schema": lambda source: {"json_schema": json.loads(source)}},
    {"cache_prompt": True},
    tokenizer="llama.cpp",
)
VLLM = Dialect(
    "vLLM",
    OPENAI_FIELDS | COMMON_FIELDS | PYTHON_FIELDS,
    {
        "json_schema": _structured("json", json.loads),
        "regex": _structured("regex"),
        "choice": _structured("choice", json.loads),
        "lark": _structured("grammar"),
    },
    {"return_token_ids": True},
    tokenizer="vllm",
)
SGLANG = Dialect(
    "SGLang",
    OPENAI_FIELDS | COMMON_FIELDS | PYTHON_FIELDS | {"include_stop_str_in_output": "no_stop_trim"},
    {
        "json_schema": lambda source: {"json_schema": source},
        "regex": lambda source: {"regex": source},
    },
    {},
    no_top_k=-1,
)
DIALECTS = {"llamacpp": LLAMA_CPP, "vllm": VLLM, "token-by-token": VLLM, "sglang": SGLANG}
"""Dialects by the `owned_by` of the models that a server lists in `/v1/models`."""
