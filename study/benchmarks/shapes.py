"""Models to measure with: the shapes of real ones, with random weights, made on the spot.

How long a forward takes does not depend on the weights' values, so nothing need be downloaded. The tokenizer is made
too: its tokens are the words "w0", "w1", …, so a prompt has as many tokens as it has words, and every token that a
model draws has a text of its own.

    python -m study.benchmarks.shapes 135M /tmp/135M  # writes a checkpoint that any server of transformers models loads
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

from inference.weights.formats import FORMATS
from inference.weights.quantized import QUANTIZERS
from study.common.arguments import argument_parser


def _llama(vocabulary: int, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, tied: bool) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=mlp,
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )


Shape = LlamaConfig | Gemma3TextConfig | Qwen3MoeConfig
SHAPES: dict[str, Shape] = {
    "135M": _llama(vocabulary=49152, hidden=576, layers=30, heads=9, kv_heads=3, mlp=1536, tied=True),
    "0.5B": _llama(vocabulary=151936, hidden=896, layers=24, heads=14, kv_heads=2, mlp=4864, tied=True),
    "1.1B": _llama(vocabulary=32000, hidden=2048, layers=22, heads=32, kv_heads=4, mlp=5632, tied=False),
    "gemma3-1B": Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=1152,
        num_hidden_layers=26,
        num_attention_heads=4,
        num_key_value_heads=1,
        intermediate_size=6912,
        max_position_embeddings=32768,
        sliding_window=512,
        bos_token_id=None,
        eos_token_id=None,
    ),
    # Of 1.7 billion weights, a token goes through 0.28.
    "qwen3moe-1.7B": Qwen3MoeConfig(
        vocab_size=32000,
        hidden_size=1024,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=4,
        num_experts=64,
        num_experts_per_tok=8,
        moe_intermediate_size=512,
        norm_topk_prob=True,
        max_position_embeddings=32768,
        bos_token_id=None,
        eos_token_id=None,
    ),
    # For trying the benchmark itself; its figures say nothing.
    "tiny": _llama(vocabulary=512, hidden=64, layers=2, heads=4, kv_heads=2, mlp=128, tied=True),
}


def write_checkpoint(shape: str, folder: Path) -> Path:
    """Write a model of this shape, in bfloat16, with its tokenizer; a folder that has one already is left alone."""
    if not (folder / "model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer(shape).save_pretrained(folder)
        _model(SHAPES[shape]).save_pretrained(folder, max_shard_size="100GB")
    return folder


def bytes_per_step(shape: str, quantize: str | None = None) -> int:
    """Bytes of weights that a decode step of one stream reads: all but the rows of the embedding not looked up.

    They are in bfloat16, or rounded to int8 or int4, the matrix of the logits to int8 in both cases.
    """
    model = _on_meta(SHAPES[shape])
    weights = model.model.layers.named_parameters()
    in_layers: float = sum(weight.numel() * _share(name, model) for name, weight in weights)
    head: int = model.lm_head.weight.numel()
    return round(in_layers * _bytes_of_weight(quantize) + head * _bytes_of_weight("int8" if quantize else None))


def _share(name: str, model: PreTrainedModel) -> float:
    """How much of a weight a step of one token reads: of all experts, its own."""
    config: Any = model.config
    return float(config.num_experts_per_tok / config.num_experts) if ".experts." in name else 1.0


def _bytes_of_weight(quantize: str | None) -> float:
    if quantize is None:
        return 2.0
    blocks = FORMATS[QUANTIZERS[quantize][0]]
    return blocks.bytes / blocks.inputs


def prompt(shape: str, tokens: int, seed: int) -> str:
    """A text of exactly so many tokens; another seed makes another text, from its first token on."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(SHAPES[shape].vocab_size)}" for _ in range(tokens))


def _on_meta(config: Shape) -> PreTrainedModel:
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return made


def _model(config: Shape) -> PreTrainedModel:
    model = _on_meta(config)
    nn.Module.bfloat16(model)
    nn.Module.to_empty(model, device="cpu")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # Gemma adds 1 to them
            torch.nn.init.constant_(parameter, float(not isinstance(config, Gemma3TextConfig)))
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    model.tie_weights()
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)  # type: ignore[no-untyped-call]
    return model


def bytes_per_cached_token(shape: str) -> int:
    """Bytes of keys and values, in bfloat16, that a decode step reads for each token of a sequence's context."""
    config = SHAPES[shape]
    head_size, heads = config.head_dim, config.num_key_value_heads
    assert head_size is not None
    assert heads is not None
    return 2 * 2 * config.num_hidden_layers * heads * head_size


def tokenizer(shape: str) -> PreTrainedTokenizerFast:
    """A token for each word "w0", "w1", … of a shape's vocabulary."""
    words = {f"w{number}": number for number in range(SHAPES[shape].vocab_size)}
    level = Tokenizer(models.WordLevel(words, unk_token="w0"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=level, chat_template=template)  # type: ignore[no-untyped-call]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write_checkpoint(options.shape, options.folder)


if __name__ == "__main__":
    main()
