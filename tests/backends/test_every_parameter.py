"""No sampling parameter is dropped on its way to an engine elsewhere."""

from typing import Any, cast

import pytest

from backends import sglang_server, vllm_engine
from inference.text.text_side import TextSide
from interface.requests import EncodedRequest, GenerationRequest, SamplingParams, SettledParams, TextPrompt

VALUES: dict[str, Any] = {
    "max_tokens": 7,
    "min_tokens": 2,
    "temperature": 0.3,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.5,
    "logit_bias": {3: -1.0},
    "seed": 11,
    "stop": ["end"],
    "stop_token_ids": [4],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "ignore_eos": True,
    "logprobs": 2,
}
OF_THE_TEXT = {"stop", "include_stop_str_in_output", "skip_special_tokens"}
"""The text is made here, of the token ids that the engine tells."""


class Ends:
    """A text side that knows which tokens end a text, and nothing else."""

    def ends(self, params: SamplingParams) -> set[int]:
        return set() if params.ignore_eos else {0, *(params.stop_token_ids or ())}


def encoded(**settings: Any) -> EncodedRequest:
    params = SamplingParams(**settings)
    settled = SettledParams.of(params, params.max_tokens or 10)
    return EncodedRequest(GenerationRequest(TextPrompt("hello"), params), [1, 2], settled)


def request_body(engine: str, **settings: Any) -> dict[str, Any]:
    """The request that an engine gets for these settings."""
    if engine == "sglang":
        return sglang_server.body_of(encoded(**settings), has_lark=True)
    return vllm_engine.values_of(encoded(**settings), cast(TextSide, Ends()))


def test_every_parameter_is_tried() -> None:
    assert set(VALUES) == set(SamplingParams.model_fields)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
@pytest.mark.parametrize("name", sorted(VALUES.keys() - OF_THE_TEXT))
def test_a_parameter_changes_what_the_engine_is_told(engine: str, name: str) -> None:
    assert request_body(engine, **{name: VALUES[name]}) != request_body(engine)
