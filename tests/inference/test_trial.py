"""The check at the start reaches past every length that a config names, with a neighbour, in bounded time."""

import copy
import logging
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, PreTrainedModel

from inference.cache.kv_cache import KVCache
from inference.decoders import select
from inference.decoders.select import examine, select_decoder
from inference.decoders.start_check import in_pieces, length_trials, trial
from inference.decoders.start_check.few_layers import layers_of_each_kind, shortened
from inference.decoders.start_check.model_alone import own_logits
from inference.decoders.start_check.named_lengths import named_lengths
from inference.decoders.start_check.texts import SHORT
from inference.decoders.start_check.tolerance import Tolerance
from interface.errors import UnsupportedModel
from study.architectures.checkpoints import CHUNK, KEPT, WINDOW, small_model
from tests.support.tiny_models import model_of, random_model

CONTEXT = 200
LINEAR_ROTATION = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}


@torch.inference_mode()
def tried(
    model: PreTrainedModel, context: int = CONTEXT, slots: int = 2, is_bounded: bool = True
) -> list[tuple[int, str]]:
    """The lengths that a model was tried at, and their names in its config."""
    _, findings = examine(model, KVCache(slots, context), is_bounded=is_bounded)
    return [(finding.tokens, finding.setting) for finding in findings]


def test_lengths_are_found_by_name_wherever_the_config_has_them() -> None:
    assert ("sliding_window", WINDOW) in named_lengths(small_model("gemma3").config), "in the config of the text part"
    assert ("original_max_position_embeddings", CHUNK) in named_lengths(small_model("phi3").config), "in a rotation"
    assert named_lengths(small_model("llama4_text").config) == {("attention_chunk_size", CHUNK), ("floor_scale", 8192)}
    assert ("index_topk_blocks x index_block_size", KEPT) in named_lengths(small_model("minimax_m3_vl_text").config)
    names = {name for name, _ in named_lengths(small_model("qwen2_moe").config)}
    assert "max_window_layers" not in names, "that counts layers"


def test_lengths_of_the_same_name_are_all_tried() -> None:
    settings: dict[str, Any] = {"sliding_window": 24, "other_part": {"sliding_window": 7}, "window_sizes": [9, 5, -1]}
    config = LlamaConfig(**settings)
    assert {24, 7, 9, 5} <= {length for _, length in named_lengths(config)}
    with pytest.raises(UnsupportedModel, match=r"beyond 64 tokens, the config's sliding_window\. Up to there"):
        tried(small_model("moshi", sliding_window=64))


def test_a_window_is_passed_by_the_prompt_and_by_the_decoded_tokens() -> None:
    lengths = tried(random_model("gemma3"))
    assert lengths == [(SHORT, ""), (8 + length_trials.BEYOND, "sliding_window")]
    assert length_trials.BEYOND > in_pieces.COMPARED


def test_a_length_beyond_the_context_is_not_tried() -> None:
    assert tried(small_model("gemma2"), context=WINDOW) == [(SHORT, "")]


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("context", [2, 3, 7, CONTEXT])
def test_any_number_of_slots_and_any_context_will_do(slots: int, context: int) -> None:
    assert tried(random_model("llama"), context, slots)[0] == (min(SHORT, context), "")


@pytest.mark.parametrize(
    ("model_type", "setting", "length"),
    [
        ("deepseek_v32", "index_topk", KEPT),  # an indexer chooses among the tokens of the row
        ("moshi", "sliding_window", WINDOW),  # generate's cache forgets what the masks still show
    ],
)
def test_what_depends_on_length_is_refused_beyond_it_with_what_to_set(
    model_type: str, setting: str, length: int
) -> None:
    model = small_model(model_type)
    with pytest.raises(UnsupportedModel, match=rf"beyond {length} tokens, the config's {setting}\. .*CONTEXT={length}"):
        tried(copy.deepcopy(model))
    tried(model, context=length)


def test_a_window_that_only_the_cache_has_is_named() -> None:
    """As a Llama's config may have it: its masks know no windows, and generate's cache takes it for one."""
    model = random_model("llama")
    model.config.sliding_window = 8
    with pytest.raises(UnsupportedModel, match=r"beyond the 8 tokens of the config's sliding_window\."):
        tried(model)


def test_what_depends_on_a_neighbours_length_is_found_by_the_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "check_rotations", lambda model, context: None)
    with pytest.raises(UnsupportedModel, match=f"beyond {WINDOW} tokens"):  # the shorter of two lengths that it passes
        tried(small_model("phi3"))


# --- Rotary embeddings that turn a whole text otherwise when it grows -------------------------------------------------


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_angles_that_change_for_a_whole_text_are_refused_beyond_the_length(kind: str) -> None:
    if kind == "longrope":
        model, limit = small_model("phi3"), CHUNK
    else:
        rotation = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
        model, limit = model_of(_llama_config(rope_parameters=rotation, max_position_embeddings=50)), 50
    with pytest.raises(UnsupportedModel, match=rf"type {kind}: .* beyond {limit} tokens.*ENGINE_CONTEXT={limit}\."):
        tried(copy.deepcopy(model))
    assert tried(model, context=limit)


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_angles_that_depend_on_the_position_alone_are_served_beyond_the_original_length(kind: str) -> None:
    rotation = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 40}
    rotation |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    model = model_of(_llama_config(rope_parameters=rotation, max_position_embeddings=160))
    assert (40 + length_trials.BEYOND, "original_max_position_embeddings") in tried(model)


def _llama_config(**settings: Any) -> LlamaConfig:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    return LlamaConfig(**{"vocab_size": 300, "initializer_range": 0.2} | shape | settings)


# --- Bounded in time --------------------------------------------------------------------------------------------------


def test_a_long_text_goes_through_one_layer_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length_trials, "WHOLE_MODEL_SECONDS", 0.0)
    computed: list[int | None] = []

    def counted(model: PreTrainedModel, count: int | None) -> AbstractContextManager[None]:
        computed.append(count)
        return shortened(model, count)

    for module in (length_trials, trial):
        monkeypatch.setattr(module, "shortened", counted)
    assert (8 + length_trials.BEYOND, "sliding_window") in tried(random_model("gemma3"))
    assert computed == [2, 2], "a sliding layer and one that sees all, alone and on the cache"
    with pytest.raises(UnsupportedModel, match=f"beyond {KEPT} tokens, the config's index_topk"):
        tried(small_model("deepseek_v32"))


def test_a_length_that_would_take_too_long_is_not_tried_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(length_trials, "WHOLE_MODEL_SECONDS", 0.0)
    monkeypatch.setattr(length_trials, "FEW_LAYERS_SECONDS", 0.0)
    assert tried(random_model("gemma3")) == [(SHORT, "")]
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("Not checked beyond 8 tokens, the config's sliding_window: that would take about ")
    assert warning.endswith(" To stay below, set ENGINE_CONTEXT=8.")


def test_a_check_without_bounds_tries_a_long_text_with_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length_trials, "WHOLE_MODEL_SECONDS", 0.0)
    monkeypatch.setattr(length_trials, "FEW_LAYERS_SECONDS", 0.0)
    lengths = tried(random_model("gemma3"), is_bounded=False)
    assert lengths == [(SHORT, ""), (8 + length_trials.BEYOND, "sliding_window"), (length_trials.LONG, "")]


def test_a_shortened_model_is_whole_again_afterwards() -> None:
    model = random_model("gemma3")
    few = layers_of_each_kind(model)
    assert few is not None
    assert (few.count, few.share) == (2, 2 / 3)
    ids = list(range(1, 30))
    with torch.inference_mode():
        whole = own_logits(model, ids, 1)
        with shortened(model, few.count):
            assert not torch.equal(own_logits(model, ids, 1), whole)
        assert torch.equal(own_logits(model, ids, 1), whole)


# --- What is refused, in a sentence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("falcon", "do not attend through transformers' AttentionInterface"),
        ("bloom", "do not attend through transformers' AttentionInterface"),
        ("mpt", "do not attend through transformers' AttentionInterface"),
        ("inkling_text", "adds a bias of its own to the scores"),
        ("doge", "makes masks of its own"),
        ("jamba", "its layers forget their states"),
    ],
)
def test_the_reason_is_the_architectures_own(model_type: str, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        tried(small_model(model_type))


def test_a_model_whose_code_fails_on_the_cache_is_refused_without_a_traceback() -> None:
    with pytest.raises(
        UnsupportedModel, match=r"MiniMaxM3\w+ cannot run .*: its own code fails there \(.+\)\. Expected a"
    ):
        tried(small_model("minimax_m3_vl_text"))


@pytest.mark.parametrize(
    ("model_type", "setting", "part"),
    [
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "DeepseekV2TopkRouter"),
        ("llama", {"rope_parameters": LINEAR_ROTATION | {"partial_rotary_factor": 0.5}}, "LlamaAttention"),
    ],
)
def test_a_setting_that_only_a_models_code_notices_is_refused_with_the_part_that_reads_it(
    model_type: str, setting: dict[str, Any], part: str
) -> None:
    with pytest.raises(
        UnsupportedModel, match=rf"cannot compute a text of \d+ tokens by itself, in its {part}: a setting in it has"
    ):
        tried(small_model(model_type, **setting))


@pytest.mark.parametrize("model_type", ["bloom", "longcat_flash"])
def test_a_model_without_layers_is_refused_and_does_not_raise(model_type: str) -> None:
    with pytest.raises(UnsupportedModel, match="do not attend through transformers' AttentionInterface"):
        tried(small_model(model_type, num_hidden_layers=0))


def test_a_model_without_numbers_is_refused() -> None:
    model = random_model("llama")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(
        UnsupportedModel, match=r"by itself gives logits that are not finite, in float32\. Its weights are damaged"
    ):
        tried(model)
    nn.Module.bfloat16(model)
    with pytest.raises(UnsupportedModel, match=r"not finite, in bfloat16\. .* too narrow .*ENGINE_DTYPE=float32"):
        tried(model)


has_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU does not compute in bfloat16"
)


@has_bfloat16
@pytest.mark.parametrize(
    "model_type",
    [
        *("deepseek_v2", "gpt_oss", "mllama", "gptj", "codegen", "gpt_neo"),
        *("hunyuan_v1_moe", "longcat_flash"),  # these read a layer's weight themselves
    ],
)
def test_half_precision_is_served(model_type: str) -> None:
    model = small_model(model_type)
    nn.Module.bfloat16(model)
    assert tried(model)


@has_bfloat16
@pytest.mark.parametrize(
    ("model_type", "dtype", "context"),
    [("granitemoe_swa", torch.bfloat16, CONTEXT), ("hy_v4", torch.float16, KEPT)],
)
def test_a_router_that_rounding_sends_to_another_expert_is_no_reason_to_refuse(
    model_type: str, dtype: torch.dtype, context: int
) -> None:
    model = small_model(model_type)
    nn.Module.to(model, dtype)
    assert tried(model, context)


@has_bfloat16
@pytest.mark.parametrize("model_type", ["deepseek_v32"])
def test_what_is_wrong_with_a_model_of_experts_shows_in_half_precision_too(model_type: str) -> None:
    model = small_model(model_type)
    nn.Module.bfloat16(model)
    with pytest.raises(UnsupportedModel, match="gives other logits"):
        tried(model)


def test_one_token_that_another_expert_has_computed_does_not_count_in_half_precision() -> None:
    expected = torch.eye(7)
    logits = expected + torch.tensor([0.01, 0.5, 0.02, 0.03, 0.01, 0.01, 0.4])[:, None]
    assert Tolerance.of(torch.float32).difference(logits, expected) == pytest.approx(0.5)
    assert Tolerance.of(torch.bfloat16).difference(logits, expected) == pytest.approx(0.02)


def test_a_difference_that_is_no_number_is_never_near_enough() -> None:
    logits = torch.full((7, 3), float("nan"))
    for dtype in (torch.float32, torch.bfloat16):
        tolerance = Tolerance.of(dtype)
        assert not tolerance.admits(tolerance.difference(logits, torch.eye(7)[:, :3]))


@torch.inference_mode()
def test_a_decoder_says_what_it_is() -> None:
    assert select_decoder(random_model("llama"), KVCache(2, 50)).name == "operators of torch"
    assert select_decoder(random_model("gpt2"), KVCache(2, 50)).name == "transformers' own forward"
