"""ENGINE_COMPILE=1 on models that the decoder in C++ supports: the same answers, and a fallback where it cannot run."""

import logging
import os
import platform
import shutil
import subprocess
import threading
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeSharedConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
)

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.choosers import chooser_for
from inference.cpp.build import COMPILERS, FLAGS
from inference.decoders.native.decoder import NativeDecoder, NotNative
from inference.decoders.native.sources import decoder_units
from inference.decoders.select import select_decoder
from inference.decoders.torch_decoder import TorchDecoder
from inference.tensor_thread import on_tensor_thread
from inference.weights import llama
from inference.weights.checkpoint import Checkpoint
from inference.weights.take_apart import check_llama
from inference.weights.variation import Variation
from interface.errors import UnsupportedModel
from tests.support.native_models import (
    CONTEXT,
    EXPERT_SHAPE,
    INSTRUCTIONS,
    LENGTH,
    MODELS,
    PLAIN,
    PROMPTS,
    SHAPE,
    STEPS,
    VARIED,
    VOCABULARY,
    engine_of,
    logits_in_steps,
    model_named,
    native,
)
from tests.support.tiny_models import (
    Inbox,
    byte_tokenizer,
    model_of,
    reference_output,
    run_until_idle,
    submit,
    tiny_engine,
)

Q4_1_AND_Q6_K = (3, 14)
WITHOUT_HEADS = {name: size for name, size in SHAPE.items() if name != "head_dim"}


SMALL_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PLAIN)
def test_uncompiled_a_llama_says_what_generate_says_too(name: str) -> None:
    expected = {p: reference_output(model_named(name), byte_tokenizer()(p)["input_ids"], LENGTH) for p in PROMPTS}
    checkpoint = Checkpoint(model_named(name), byte_tokenizer(), CONTEXT)
    engine, inbox = Engine(checkpoint, Config(max_streams=3, prefill_chunk=40)), Inbox()
    assert isinstance(engine._runner._decoder, TorchDecoder)
    probes = {submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0): prompt for prompt in PROMPTS * 2}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == expected[prompt], prompt


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", MODELS)
def test_the_decoder_in_cpp_says_what_generate_says_alone_and_in_a_batch(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {p: reference_output(model_named(name), byte_tokenizer()(p)["input_ids"], LENGTH) for p in PROMPTS}
    with caplog.at_level(logging.INFO, "engine"):
        engine, inbox = engine_of(model_named(name), max_streams=3, prefill_chunk=40), Inbox()
    assert [record.msg for record in caplog.records] == ["Compiled or loaded the decoder in %.1f s"]
    alone = engine.generate(PROMPTS[1], max_tokens=LENGTH, temperature=0)
    assert alone["token_ids"] == expected[PROMPTS[1]]
    probes = {submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0): prompt for prompt in PROMPTS * 2}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == expected[prompt], prompt


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        *((name, "this machine's") for name in MODELS),
        *(
            (name, other)
            for name in ("llama, one group", "llama, long heads", "qwen3")
            for other in INSTRUCTIONS
            if other != "this machine's"
        ),
    ],
)
def test_its_logits_are_as_near_to_exact_ones_as_the_models_own(
    name: str, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if instructions != "this machine's" and platform.machine() != "x86_64":
        pytest.skip("these instructions are those of x86-64")
    monkeypatch.setenv("CXXFLAGS", INSTRUCTIONS[instructions])
    token_ids = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.inference_mode():
        narrow, model = nn.Module.to(model_named(name), torch.bfloat16), model_named(name)
        for rounded, parameter in zip(narrow.parameters(), model.parameters(), strict=True):
            parameter.copy_(rounded)
        own = narrow(torch.tensor([token_ids])).logits[0].float()
        found = on_tensor_thread(lambda: logits_in_steps(narrow, token_ids, STEPS))
        exact = model(torch.tensor([token_ids])).logits[0]
        found_exact = on_tensor_thread(lambda: logits_in_steps(model, token_ids, STEPS))
    largest = exact.abs().max()
    assert ((found_exact - exact).abs().max() / largest).item() < 1e-4
    assert ((found - exact).abs().max() / (own - exact).abs().max()).item() < 1.5


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these processors are x86-64")
@pytest.mark.parametrize(
    "processor", ["sapphirerapids", "cooperlake", "skylake-avx512", "alderlake", "haswell", "nehalem"]
)
def test_the_decoder_in_cpp_compiles_for_processors_that_are_not_at_hand(processor: str) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)))
    units = [
        *decoder_units(True, (), True, head_dim=64, group=3, has_experts=True),
        *decoder_units(True, Q4_1_AND_Q6_K, False, head_dim=64, group=3),
        *decoder_units(True, Q4_1_AND_Q6_K, True, head_dim=64, group=3, has_experts=True),
        *decoder_units(False, (8,), True, head_dim=64, group=3, has_experts=True),
    ]
    for unit in {unit.key: unit for unit in units}.values():
        target = ["-O0", f"-march={processor}"]  # what a processor does not have is an error without optimizing, too
        command = [compiler, *FLAGS, *target, *unit.macros, "-c", str(unit.source), "-o", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_chooses_tokens_is_compiled_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    is_building = threading.Event()

    def noted(*arguments: Any) -> Any:
        is_building.set()
        return chooser_for(*arguments)

    def awaited(*arguments: Any) -> Any:
        assert is_building.wait(10)
        return select_decoder(*arguments)

    monkeypatch.setattr("inference.model_runner.chooser_for", noted)
    monkeypatch.setattr("inference.model_runner.select_decoder", awaited)
    assert engine_of(model_named("llama")).generate("a", max_tokens=2)["text"] is not None


def test_what_a_slot_still_holds_is_used_and_gives_the_same_answer() -> None:
    model = model_named("llama")
    engine = engine_of(model_named("llama"), max_streams=2)
    first = engine.generate(PROMPTS[2], max_tokens=LENGTH, temperature=0, ignore_eos=True)
    longer = PROMPTS[2] + first["text"] + "?"
    second = engine.generate(longer, max_tokens=LENGTH, temperature=0)
    prompt_ids = byte_tokenizer()(longer)["input_ids"]
    assert second["cached_tokens"] >= len(PROMPTS[2])
    assert second["token_ids"] == reference_output(model, prompt_ids, LENGTH)


@pytest.mark.parametrize(
    "config",
    [
        VARIED["mistral, window"],
        VARIED["gemma2"],
        LlamaConfig(**SHAPE, hidden_act="gelu_pytorch_tanh"),
        LlamaConfig(**SHAPE, mlp_bias=True),
        LlamaConfig(**SHAPE, attention_bias=True),
    ],
)
def test_windows_and_further_variations_are_left_to_transformers_unless_compiled(config: PreTrainedConfig) -> None:
    check_llama(model_of(config), CONTEXT, may_vary=True)
    with pytest.raises(llama.NotLlama):
        check_llama(model_of(config), CONTEXT)


def test_what_follows_the_last_matrix_is_not_known_of_a_model_of_several_senses() -> None:
    texts = Gemma3TextConfig(**SHAPE, final_logit_softcapping=3.0)
    check_llama(model_of(texts), CONTEXT, may_vary=True)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=texts, vision_config=SMALL_VISION))
    with pytest.raises(llama.NotLlama, match="scaled or bounded logits in a model of several senses"):
        check_llama(model, CONTEXT, may_vary=True)


def test_a_setting_that_its_type_does_not_have_means_nothing() -> None:
    foreign: dict[str, Any] = {"embedding_multiplier": 3.0, "no_rope_layers": [0, 0, 0], "query_pre_attn_scalar": 3}
    foreign["hidden_activation"] = "gelu_pytorch_tanh"
    config = LlamaConfig(**SHAPE, **foreign)
    expected = reference_output(model_of(config), byte_tokenizer()(PROMPTS[2])["input_ids"], LENGTH)
    engine = engine_of(model_of(config))
    assert isinstance(engine._runner._decoder, NativeDecoder)
    assert engine.generate(PROMPTS[2], max_tokens=LENGTH, temperature=0)["token_ids"] == expected


def test_a_start_finds_a_window_that_is_computed_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Variation, "window", lambda variation, number: 39)
    with pytest.raises(UnsupportedModel, match="beyond 40 tokens, the config's sliding_window"):
        engine_of(model_named("mistral, window"))


@pytest.mark.parametrize("name", [*VARIED, "qwen3 moe", "granite moe"])
def test_without_a_compiler_a_model_that_varies_is_computed_with_operators_of_torch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    expected = reference_output(model_named(name), byte_tokenizer()(PROMPTS[2])["input_ids"], LENGTH)
    engine = engine_of(model_named(name), prefill_chunk=40)
    assert isinstance(engine._runner._decoder, TorchDecoder)
    assert engine.generate(PROMPTS[2], max_tokens=LENGTH, temperature=0)["token_ids"] == expected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (LlamaConfig(**{**SHAPE, "head_dim": 24}), "heads of 24 numbers; expected a multiple of 16"),
        (LlamaConfig(**SHAPE, hidden_act="gelu"), "activation gelu; expected one of silu, "),
        (LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic"),
        (Gemma3TextConfig(**SHAPE, use_bidirectional_attention=True), "what comes later in the text"),
        (GraniteConfig(**SHAPE, residual_multiplier=0.0), "residual_multiplier 0.0; expected a finite number above 0"),
        (MixtralConfig(**SHAPE | {"hidden_size": 80}), "experts with 80 inputs; expected a multiple of 32"),
        (MixtralConfig(**SHAPE | {"hidden_size": 96}), "experts with 100 inputs; expected a multiple of 32"),
        (GptOssConfig(**EXPERT_SHAPE, swiglu_limit=0.0), "swiglu_limit 0.0; expected more than 0"),
        (
            GraniteMoeSharedConfig(**WITHOUT_HEADS | {"hidden_size": 192}, shared_intermediate_size=64),
            r"an expert for all tokens \(shared_intermediate_size\)",
        ),
    ],
)
def test_an_unsupported_model_is_refused_with_a_reason(config: PreTrainedConfig, reason: str) -> None:
    with pytest.raises((NotNative, llama.NotLlama), match=reason):
        native(model_of(config), KVCache(2, CONTEXT))


def test_float16_is_refused_with_a_reason() -> None:
    with pytest.raises(NotNative, match=r"torch.float16 on cpu: it computes float32 and bfloat16"):
        native(nn.Module.half(model_named("llama")), KVCache(2, CONTEXT))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "found no C++ compiler (looked for no-such-compiler; CXX names another)"),
        ("false", "false failed: "),
    ],
)
def test_without_a_working_compiler_one_line_says_so_and_the_engine_serves(
    compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", compiler)
    engine = engine_of(model_named("llama"))
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("The model runs uncompiled: ")
    assert reason in warning
    answer = engine.generate(PROMPTS[1], max_tokens=LENGTH, temperature=0)
    prompt_ids = byte_tokenizer()(PROMPTS[1])["input_ids"]
    assert answer["token_ids"] == reference_output(model_named("llama"), prompt_ids, LENGTH)


@pytest.mark.parametrize(("decoder", "is_compiled"), [(NativeDecoder, True), (TorchDecoder, False)])
def test_a_decoder_that_computes_something_else_is_not_used(
    decoder: type[NativeDecoder | TorchDecoder], is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward: Any = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda self, batch: forward(self, batch) * 1.01)
    checkpoint = Checkpoint(model_named("llama"), byte_tokenizer(), CONTEXT)
    with pytest.raises(UnsupportedModel, match="LlamaForCausalLM gives other logits on this engine's cache than by"):
        Engine(checkpoint, Config(compile=is_compiled))


def test_other_architectures_have_their_layers_compiled_by_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled = []
    monkeypatch.setattr(
        "inference.decoders.transformers_decoder.compile_layers", lambda model: compiled.append(type(model))
    )
    with caplog.at_level(logging.INFO, "engine"):
        tiny_engine("gpt2", compile=True)
    assert [kind.__name__ for kind in compiled] == ["GPT2LMHeadModel"]
    assert "GPT2Model is not one of LlamaModel" in caplog.records[0].message
