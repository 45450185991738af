"""A checkpoint of `study.benchmarks.shapes` for llama.cpp, so that its server can be compared with ours.

    python -m study.benchmarks.shapes 135M /tmp/135M
    python -m study.benchmarks.gguf_checkpoint /tmp/135M /tmp/135M.gguf           # in bfloat16
    python -m study.benchmarks.gguf_checkpoint /tmp/135M /tmp/135M-Q4_0.gguf Q4_0  # all matrices in four bits
    llama-server -m /tmp/135M.gguf --port 8002 --parallel 16 --ctx-size 8192 --threads 2 &

The tokenizer's words become SentencePiece pieces, with the pieces in between ("w1" on the way to "w12"), so that a
prompt has the same number of tokens on both servers. Queries and keys keep the order of transformers; llama.cpp expects
another, but the weights are random, and both orders take the same time.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
from gguf import quantize
from safetensors.torch import load_file
from torch import Tensor, bfloat16, float32, stack, uint8

from inference.weights.gguf.architecture import EXPERTS, LAYER, TOP
from inference.weights.gguf.families.gemma import FOUR_NORMS
from inference.weights.gguf.heads import ROUTER
from study.common.arguments import argument_parser

NAMES = {
    "llama": {theirs: ours for ours, theirs in (TOP | LAYER).items()},
    "qwen3moe": {theirs: ours for ours, theirs in (TOP | LAYER | EXPERTS).items()},
    "gemma3": {theirs: ours for ours, theirs in (TOP | LAYER | FOUR_NORMS).items()},
}
EXPERT = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight")
NORMAL, UNKNOWN, BYTE = 1, 2, 6


def pieces(size: int) -> tuple[list[str], list[int]]:
    """The vocabulary: unknown, bytes, the pieces in between, and as many whole words as there is room for."""
    between = ["▁", "w", "▁w", *"0123456789"]
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *between]
    words = [f"▁w{number}" for number in range(size - len(special))]
    kinds = [UNKNOWN, *[BYTE] * 256, *[NORMAL] * (len(between) + len(words))]
    return [*special, *words], kinds


def add_tokenizer(writer: gguf.GGUFWriter, vocabulary: int) -> None:
    tokens, kinds = pieces(vocabulary)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) for token in tokens])  # longer pieces first
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)


def gguf_name(name: str, architecture: str = "llama") -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, part = stem.split(".", 3)
        return f"blk.{number}.{NAMES[architecture][part]}.weight"
    return f"{NAMES[architecture][stem]}.weight"


def write(checkpoint: Path, path: Path, kind: str = "BF16") -> None:
    """Write `checkpoint`, a Llama, Gemma 3 or Qwen 3 with experts, as a GGUF file.

    Args:
        kind: the type of its matrices, which the package gguf can make.
    """
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    architecture = config["model_type"].removesuffix("_text").replace("_moe", "moe")
    is_gemma = architecture == "gemma3"
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(1e6 if is_gemma else 1e4)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    if is_gemma:
        writer.add_sliding_window(config["sliding_window"])
    if architecture == "qwen3moe":
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    add_tokenizer(writer, config["vocab_size"])
    for name, tensor in _tensors(checkpoint, architecture):
        changed = tensor + 1 if is_gemma and "norm" in name else tensor
        _add(writer, name, changed, gguf.GGMLQuantizationType["F32" if ROUTER in name else kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(checkpoint: Path, architecture: str) -> Iterator[tuple[str, Tensor]]:
    """The weights under llama.cpp's names, those of all experts as one."""
    experts: dict[str, list[Tensor]] = {}
    weights = load_file(checkpoint / "model.safetensors")
    for name in sorted(weights, key=_with_numbers):
        if found := EXPERT.fullmatch(name):
            experts.setdefault(f"blk.{found[1]}.ffn_{found[2]}_exps.weight", []).append(weights[name])
        else:
            yield gguf_name(name, architecture), weights[name]
    for name, parts in experts.items():
        yield name, stack(parts)


def _with_numbers(name: str) -> list[str]:
    """A key that sorts the tenth after the ninth."""
    return [part.zfill(5) for part in name.split(".")]


def _add(writer: Any, name: str, tensor: Tensor, kind: Any) -> None:
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor.to(float32).numpy())
    elif kind.name == "BF16":
        writer.add_tensor(name, tensor.to(bfloat16).contiguous().view(uint8).numpy(), raw_dtype=kind)
    else:
        writer.add_tensor(name, quantize(tensor.to(float32).numpy(), kind), raw_dtype=kind)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder that study.benchmarks.shapes has written")
    parser.add_argument("file", type=Path, help="GGUF file to write")
    parser.add_argument("kind", nargs="?", default="BF16", help="type of the matrices (default: %(default)s)")
    options = parser.parse_args()
    write(options.checkpoint, options.file, options.kind)


if __name__ == "__main__":
    main()
