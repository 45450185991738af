"""What a generation_config.json says about ends and logits changes answers as it does in transformers' generate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from config import Config
from engine import Engine
from interface.errors import LoadError
from interface.events import Finished
from interface.requests import GenerationRequest, Grammar, SamplingParams, TextPrompt
from tests.support.checkpoint_folders import save
from tests.support.tiny_models import Inbox, byte_tokenizer, random_model, reference_output, run_until_idle, submit

PROMPT = "hello"
PROMPT_IDS = byte_tokenizer()(PROMPT)["input_ids"]


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model("llama")


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    return save(tmp_path, model)


def engine_with(folder: Path, generation_config: str = "auto", **settings: Any) -> Engine:
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return Engine.load(Config(model=str(folder), device="cpu", generation_config=generation_config))


def generated(model: Any, **settings: Any) -> list[int]:
    output = model.generate(torch.tensor([PROMPT_IDS]), max_new_tokens=24, do_sample=False, **settings)
    tokens: list[int] = output[0, len(PROMPT_IDS) :].tolist()
    return tokens


@pytest.mark.parametrize("stop", ["1!", "li"])
def test_an_answer_ends_at_the_models_stop_string_as_in_generate(stop: str, model: Any, folder: Path) -> None:
    expected = generated(model, stop_strings=[stop], tokenizer=byte_tokenizer())
    answer = engine_with(folder, stop_strings=[stop]).generate(PROMPT, max_tokens=24, temperature=0)
    assert answer["token_ids"] == expected
    assert f"{answer['text']}{stop}" == byte_tokenizer().decode(expected)
    assert answer["finish_reason"] == "stop"
    free = engine_with(folder, "off", stop_strings=[stop]).generate(PROMPT, max_tokens=24, temperature=0)
    assert free["token_ids"] == reference_output(model, PROMPT_IDS, 24)


def test_only_a_stop_string_of_the_request_is_a_reason_to_stop(folder: Path) -> None:
    engine = engine_with(folder, stop_strings="li")
    assert ended(engine, stop=["1!"]) == ("stop", "1!")
    assert ended(engine, stop=["zz"]) == ("stop", None)


def ended(engine: Engine, **settings: Any) -> tuple[str, str | int | None]:
    inbox = Inbox()
    sequence_id = submit(engine, inbox, PROMPT, max_tokens=24, temperature=0, **settings)
    run_until_idle(engine)
    finished = inbox.end(sequence_id)
    assert isinstance(finished, Finished)
    return finished.finish_reason, finished.stop_reason


@pytest.mark.parametrize("settings", [{"min_new_tokens": 9}, {"min_length": len(PROMPT_IDS) + 9}])
def test_no_answer_ends_before_the_models_least_length_as_in_generate(
    settings: dict[str, Any], model: Any, folder: Path
) -> None:
    ends = reference_output(model, PROMPT_IDS, 24)[4:11:3]
    expected = generated(model, eos_token_id=ends, **settings)
    assert 9 <= len(expected) < 24
    answer = engine_with(folder, eos_token_id=ends, **settings).generate(PROMPT, max_tokens=24, temperature=0)
    assert answer["token_ids"] == expected
    answer = engine_with(folder, eos_token_id=ends).generate(PROMPT, max_tokens=24, temperature=0)
    assert len(answer["token_ids"]) < 9


def test_a_bias_of_the_model_is_added_to_its_tokens_as_in_generate(model: Any, folder: Path) -> None:
    first, second, *_ = reference_output(model, PROMPT_IDS, 2)
    biases: list[Any] = [[[first], -1e9], [[second], -3.0], [[65], 4.0]]
    expected = generated(model, sequence_bias=biases)
    engine = engine_with(folder, sequence_bias=[*biases, [[5000], 1.0]])
    assert engine.generate(PROMPT, max_tokens=24, temperature=0)["token_ids"] == expected
    assert expected != reference_output(model, PROMPT_IDS, 24)
    wanted = engine.generate(PROMPT, max_tokens=1, temperature=0, logit_bias={first: 100.0})
    assert wanted["token_ids"] == [first]  # a request's own bias takes the place of the model's


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stop_strings": [5]}, r"stop_strings: expected a text or a list of texts, got \[5\]"),
        ({"stop_strings": [""]}, r"stop_strings: expected a text or a list of texts, got \[''\]"),
        ({"sequence_bias": 5}, "sequence_bias: expected pairs of a list of tokens' ids and a number, got 5"),
        ({"sequence_bias": [[3, 1.0]]}, "sequence_bias: expected pairs of a list of tokens' ids and a number"),
        ({"sequence_bias": [[[3], "1"]]}, "sequence_bias: expected pairs of a list of tokens' ids and a number"),
        ({"min_new_tokens": -1}, "min_new_tokens: expected a number of tokens, or 0 for none, got -1"),
        ({"use_cache": 0}, "use_cache: expected true, false or null, got 0"),
        ({"use_cache": []}, r"use_cache: expected true, false or null, got \[\]"),
        ({"min_length": "3"}, "min_length: expected a number of tokens, or 0 for none, got '3'"),
    ],
)
def test_settings_of_another_kind_are_refused(settings: dict[str, Any], told: str, folder: Path) -> None:
    with pytest.raises(LoadError, match=rf"generation_config.json: {told}"):
        engine_with(folder, **settings)


def test_where_there_is_a_grammar_it_says_where_the_text_ends(folder: Path) -> None:
    engine, inbox = engine_with(folder, stop_strings=["1!"], min_new_tokens=20), Inbox()
    params = SamplingParams(max_tokens=24, temperature=0)
    request = GenerationRequest(TextPrompt(PROMPT), params, grammar=Grammar("choice", '["1!1!"]'))
    engine.submit(engine.encode([request]), inbox)
    run_until_idle(engine)
    assert inbox.text(request.sequence_id) == "1!1!"
