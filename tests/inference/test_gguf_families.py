"""GGUF files of every family of architectures are read as the models that were written, or refused."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    ArceeConfig,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Exaone4Config,
    Glm4Config,
    GlmConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeSharedConfig,
    HunYuanDenseV1Config,
    Ministral3Config,
    MixtralConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    PhiConfig,
    PreTrainedConfig,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from config import Config
from engine import Engine
from inference.weights.gguf.architectures import ARCHITECTURES
from tests.inference.test_gguf import CONFIGS as FIRST
from tests.inference.test_gguf import model_with_norms
from tests.support import tiny_models
from tests.support.checkpoint_folders import load
from tests.support.gguf_families import WRITTEN
from tests.support.gguf_files import same_weights, write_gguf
from tests.support.tiny_models import (
    NO_ENDS,
    WINDOW,
    bpe_tokenizer,
    reference_output,
    transformers_model,
)

SHAPE: dict[str, Any] = {
    **tiny_models.SHAPE,
    **NO_ENDS,
    "num_hidden_layers": 4,  # so that some layer in four is another
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "tie_word_embeddings": False,
}
HALF: dict[str, Any] = {"partial_rotary_factor": 0.5}
SCALES: dict[str, Any] = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,  # so that a prompt goes beyond
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
QUERIES: dict[str, Any] = {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
CONFIGS: list[PreTrainedConfig] = [
    MixtralConfig(**SHAPE, **EXPERTS),
    Ministral3Config(**SHAPE, head_dim=16, rope_parameters=YARN | QUERIES),
    SmolLM3Config(**SHAPE),
    ArceeConfig(**SHAPE),
    GraniteConfig(**SHAPE, **SCALES),
    GraniteMoeSharedConfig(**SHAPE, **SCALES, **EXPERTS, shared_intermediate_size=24),
    Olmo2Config(**SHAPE),
    Olmo3Config(**SHAPE, sliding_window=WINDOW),
    OlmoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2),
    Starcoder2Config(**SHAPE),
    StableLmConfig(**SHAPE, **HALF, use_qkv_bias=True),
    NemotronConfig(**SHAPE, **HALF),
    PhiConfig(**SHAPE, **HALF),
    GlmConfig(**SHAPE, **HALF, head_dim=16, attention_bias=True),
    Glm4Config(**SHAPE, **HALF, head_dim=16, attention_bias=False),
    CohereConfig(**SHAPE | {"tie_word_embeddings": True}, logit_scale=0.5, use_qk_norm=True),
    Cohere2Config(**SHAPE | {"tie_word_embeddings": True}, logit_scale=0.5, sliding_window=WINDOW),
    Ernie4_5Config(**SHAPE, head_dim=16),
    SeedOssConfig(**SHAPE, head_dim=16, attention_bias=True, attention_out_bias=False),
    Exaone4Config(**SHAPE, sliding_window=WINDOW, sliding_window_pattern=4),
    HunYuanDenseV1Config(**SHAPE, head_dim=16),
    GptOssConfig(**SHAPE, **EXPERTS, head_dim=16, sliding_window=WINDOW, rope_parameters=YARN | {"truncate": False}),
]
PROMPT = "the cat sat on the mat, the cat sat still"


def test_every_architecture_is_among_those_that_are_tried() -> None:
    tried = {WRITTEN[config.model_type].architecture for config in CONFIGS} | FIRST.keys()
    assert tried == ARCHITECTURES.keys()


def test_the_documentation_lists_every_architecture() -> None:
    _, _, table = Path("docs/checkpoints.md").read_text().partition("| family | `general.architecture` |")
    rows = re.findall(r"^\| .* \| ([a-z0-9_, -]+) \|$", table.partition("\n\n")[0], re.MULTILINE)
    assert sorted(", ".join(rows).split(", ")) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_a_file_says_what_the_model_that_was_written_says(config: PreTrainedConfig, tmp_path: Path) -> None:
    model = model_with_norms(config)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    checkpoint = load(path)
    loaded = transformers_model(checkpoint)
    assert loaded.config.model_type == config.model_type
    if config.model_type != "nemotron":  # adding 1 to its norms and taking it away again rounds
        assert same_weights(loaded, model)
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)
    assert len(set(answer["token_ids"])) > 1
