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
from pathlib import Path
from typing import Any

import gguf
from gguf import quantize
from safetensors.torch import load_file
from torch import Tensor, bfloat16, float32, uint8

from inference.weights.gguf.architecture import LAYER, TOP
from inference.weights.gguf.families.gemma import FOUR_NORMS
from study.common.arguments import argument_parser

NAMES = {
    "llama": {theirs: ours for ours, theirs in (TOP | LAYER).items()},
    "gemma3": {theirs: ours for ours, theirs in (TOP | LAYER | FOUR_NORMS).items()},
}
NORMAL, UNKNOWN, BYTE = 1, 2, 6


def pieces(size: int) -> tuple[list[str], list[int]]:
    """The vocabulary: unknown, bytes, the pieces in between, and as many whole words as there is room for."""
    between = ["▁", "w", "▁w", *"0123456789"]
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *between]
    words = [f"▁w{number}" for number in range(size - len(special))]
    kinds = [UNKNOWN, *[BYTE] * 256, *[NORMAL] * (len(between) + len(words))]
    return [*special, *words], kinds


def gguf_name(name: str, architecture: str = "llama") -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, number, part = stem.split(".", 3)
        return f"blk.{number}.{NAMES[architecture][part]}.weight"
    return f"{NAMES[architecture][stem]}.weight"


def write(checkpoint: Path, path: Path, kind: str = "BF16") -> None:
    """Write `checkpoint`, a Llama or Gemma 3, as a GGUF file, its matrices in a type that the package gguf can make."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    architecture = config["model_type"].removesuffix("_text")
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
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    if is_gemma:
        writer.add_sliding_window(config["sliding_window"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    tokens, kinds = pieces(config["vocab_size"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) for token in tokens])  # longer pieces first
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        changed = tensor + 1 if is_gemma and "norm" in name else tensor
        _add(writer, gguf_name(name, architecture), changed, gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
