"""Defaults that a request takes from its model, and prompts that are far too long for it."""

import itertools
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from config import Config
from engine import Engine
from inference.text.prompt_length import tokens_at_least
from inference.text.prompts import PromptEncoder
from inference.text.text_side import GenerationSettings, TextSide
from inference.weights.checkpoint import Checkpoint
from inference.weights.generation_settings import SAMPLING
from interface.errors import PromptTooLong, RequestError
from interface.requests import ChatPrompt, GenerationRequest, SamplingParams, TextPrompt, text_request
from tests.support.tiny_models import (
    CONTEXT,
    VOCABULARY,
    bpe_tokenizer,
    byte_fallback_tokenizer,
    byte_tokenizer,
    random_model,
    tiny_engine,
)

# --- Parameters that a request leaves out -----------------------------------------------------------------------------


def settled(request_settings: dict[str, Any], **defaults: float) -> SamplingParams:
    checkpoint = Checkpoint(
        random_model("llama"), byte_tokenizer(), CONTEXT, GenerationSettings(sampling_defaults=defaults)
    )
    (encoded,) = Engine(checkpoint, Config()).encode([text_request("hello", **request_settings)])
    return encoded.params


def test_a_request_that_names_nothing_is_sampled_as_the_models_makers_would() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    assert settled({}, **defaults).model_dump(include=set(defaults)) == defaults


def test_what_a_request_names_comes_before_what_the_model_says() -> None:
    params = settled({"temperature": 0.0, "top_k": 0}, temperature=0.6, top_k=20, top_p=0.9)
    assert (params.temperature, params.top_k, params.top_p) == (0.0, 0, 0.9)


def test_where_neither_says_anything_the_documented_defaults_apply() -> None:
    params = settled({})
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.7, 1.0, 0, 0.0)
    assert params.repetition_penalty == 1.0


def test_the_api_says_of_each_of_them_that_the_default_is_the_models_own() -> None:
    fields = SamplingParams.model_json_schema()["properties"]
    for name in SAMPLING:
        assert "The default is the model's own, or else " in fields[name]["description"], name


def test_a_request_that_bans_every_token_is_refused() -> None:
    with pytest.raises(RequestError, match="bans every token"):
        settled({"logit_bias": dict.fromkeys(range(VOCABULARY), -100.0)})
    settled({"logit_bias": dict.fromkeys(range(1, VOCABULARY), -100.0)})


# --- Prompts that the tokenizer fails at ------------------------------------------------------------------------------


class PanicException(BaseException):
    """What a library written in Rust raises where its code fails; it is no Exception."""


@pytest.mark.parametrize("error", [Exception("no unk_id for this"), PanicException("not a char boundary")], ids=repr)
def test_a_text_that_the_tokenizer_fails_at_is_the_requests_own_matter(error: BaseException) -> None:
    class Brittle(PreTrainedTokenizerFast):
        def _encode_plus(self, *arguments: Any, **settings: Any) -> Any:
            raise error

    tokenizer = Brittle(  # type: ignore[no-untyped-call]
        tokenizer_object=byte_tokenizer().backend_tokenizer, chat_template="{{ messages[0].content }}"
    )
    text_side = TextSide(tokenizer, CONTEXT, VOCABULARY, GenerationSettings())
    for prompt in (TextPrompt("naïve"), ChatPrompt([{"role": "user", "content": "naïve"}])):
        with pytest.raises(RequestError, match=str(error)):
            text_side.encode([GenerationRequest(prompt)])
        with pytest.raises(RequestError, match=str(error)):
            text_side.tokenize(prompt)


# --- Texts that go on from their prompts ------------------------------------------------------------------------------


def test_a_continued_text_keeps_its_first_space_and_a_new_answer_in_a_chat_has_none() -> None:
    tokenizer = byte_fallback_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    messages = [{"role": "assistant", "content": "the"}]
    continued = ChatPrompt(messages, continue_final_message=True, add_generation_prompt=False)
    text_side = TextSide(tokenizer, CONTEXT, VOCABULARY, GenerationSettings())
    (token_id,) = tokenizer("cat", add_special_tokens=False)["input_ids"]
    texts = []
    for prompt in (TextPrompt("the"), continued, ChatPrompt(messages)):
        answer = text_side.answer(text_side.encode([GenerationRequest(prompt)])[0])
        answer.admit()
        texts.append(answer.append(token_id, ended="length")[0].text)
    assert texts == [" cat", " cat", "cat"]


# --- Prompts that are far too long ------------------------------------------------------------------------------------


def test_a_prompt_of_a_megabyte_is_refused_without_being_tokenized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    seen: list[int] = []
    whole = engine._text.prompts._tokenized

    def watched(text: str, add_special_tokens: bool = False) -> list[int]:
        seen.append(len(text))
        return whole(text, add_special_tokens)

    monkeypatch.setattr(engine._text.prompts, "_tokenized", watched)
    with pytest.raises(PromptTooLong, match=r"^The prompt has at least \d+ tokens .* the context holds 160\."):
        engine.encode([text_request("word " * 200_000)])
    assert sum(seen) < 2_000


def test_a_long_prompt_of_few_tokens_is_taken() -> None:
    tokens = {"a" * 2**power: power for power in range(12)}

    def tokenize(text: str) -> list[int]:
        sizes = sorted(map(len, tokens), reverse=True)
        ids = []
        for size in sizes:
            count, text = len(text) // size, text[: len(text) % size]
            ids += [size] * count
        return ids

    assert tokens_at_least("a" * 2**11 * 30, 40, tokenize) is None


@given(
    words=st.lists(st.sampled_from(["the ", "cat", "é", "😀", "   ", "x" * 40, "\n"]), max_size=400),
    context=st.integers(1, 60),
)
def test_no_prompt_that_fits_is_refused_for_its_beginning(words: list[str], context: int) -> None:
    text = "".join(itertools.islice(itertools.cycle(words or ["a"]), 300))
    for tokenizer in (bpe_tokenizer(), byte_tokenizer()):
        tokens = len(tokenizer(text)["input_ids"])
        least = tokens_at_least(text, context, tokenizer.encode)
        assert least is None or context < least <= tokens


def test_a_prompt_that_is_a_little_too_long_is_counted() -> None:
    with pytest.raises(PromptTooLong, match=r"^The prompt has 200 tokens "):
        tiny_engine().encode([text_request("x" * 200)])
    assert len(tiny_engine().tokenize(TextPrompt("x" * 200)).token_ids) == 200


def test_a_prompt_of_several_contexts_is_counted_and_one_of_many_is_not() -> None:
    """A client that is to shorten a conversation asks by how much."""
    assert len(tiny_engine().tokenize(TextPrompt("x" * 1200)).token_ids) == 1200
    with pytest.raises(PromptTooLong, match="at least"):
        tiny_engine().tokenize(TextPrompt("x" * 100_000))


def test_a_prompt_that_is_too_long_leaves_no_warning_of_transformers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It warns of indexing errors, of which there are none: the prompt is refused, or only counted."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 10
    assert len(PromptEncoder(tokenizer, 10, len(tokenizer), ()).tokenize(TextPrompt("x" * 20)).token_ids) == 20
    assert caplog.records == []
