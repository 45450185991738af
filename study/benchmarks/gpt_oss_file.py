"""A GGUF file of gpt-oss-20b's sizes with random blocks, to measure with: the checkpoint itself has to be downloaded.

    python -m study.benchmarks.gpt_oss_file /tmp/20B.gguf  # 12 GB: experts in MXFP4, all other matrices in Q8_0
    python -m study.benchmarks.bench_engine --gguf /tmp/20B.gguf --streams 1,4 --no-scenes

All layers have the same experts, and rows of large matrices recur, so that the file is written in a minute. How long a
step takes does not depend on that.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from inference.weights.formats import FORMATS
from study.benchmarks.gguf_checkpoint import add_tokenizer
from study.common.arguments import argument_parser

MXFP4, Q8_0 = GGMLQuantizationType.MXFP4, GGMLQuantizationType.Q8_0
ROWS = 1024
"""So many rows of a matrix are drawn, and recur below."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Those of gpt-oss-20b."""

    hidden: int = 2880
    layers: int = 24
    heads: int = 64
    kv_heads: int = 8
    head_dim: int = 64
    experts: int = 32
    per_token: int = 4
    width: int = 2880  # of an expert
    vocabulary: int = 201088
    window: int = 128


def write(path: Path, sizes: Sizes) -> None:
    writer = gguf.GGUFWriter(path, "gpt-oss")
    _add_metadata(writer, sizes)
    draw = np.random.default_rng(0)
    embedding = _blocks(draw, Q8_0, sizes.vocabulary, sizes.hidden)
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", embedding, raw_dtype=Q8_0)
    writer.add_tensor("output_norm.weight", _numbers(draw, sizes.hidden, mean=1.0))
    experts = {
        name: _blocks(draw, MXFP4, sizes.experts * outputs, inputs).reshape(sizes.experts, outputs, -1)
        for name, (outputs, inputs) in _matrices_of_experts(sizes).items()
    }
    for number in range(sizes.layers):
        _add_layer(writer, f"blk.{number}", sizes, draw, experts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter, sizes: Sizes) -> None:
    writer.add_context_length(131072)
    writer.add_embedding_length(sizes.hidden)
    writer.add_block_count(sizes.layers)
    writer.add_feed_forward_length(sizes.width)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(sizes.head_dim)
    writer.add_value_length(sizes.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(150_000.0)
    writer.add_rope_dimension_count(sizes.head_dim)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_sliding_window(sizes.window)
    writer.add_expert_count(sizes.experts)
    writer.add_expert_used_count(sizes.per_token)
    writer.add_expert_feed_forward_length(sizes.width)
    add_tokenizer(writer, sizes.vocabulary)


def _add_layer(
    writer: gguf.GGUFWriter, name: str, sizes: Sizes, draw: np.random.Generator, experts: dict[str, NDArray[np.uint8]]
) -> None:
    for norm in ("attn_norm", "post_attention_norm"):
        writer.add_tensor(f"{name}.{norm}.weight", _numbers(draw, sizes.hidden, mean=1.0))
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    attention = {
        "attn_q": (queries, sizes.hidden),
        "attn_k": (keys, sizes.hidden),
        "attn_v": (keys, sizes.hidden),
        "attn_output": (sizes.hidden, queries),
    }
    for own, (outputs, inputs) in attention.items():
        writer.add_tensor(f"{name}.{own}.weight", _blocks(draw, Q8_0, outputs, inputs), raw_dtype=Q8_0)
        writer.add_tensor(f"{name}.{own}.bias", _numbers(draw, outputs))
    writer.add_tensor(f"{name}.attn_sinks.weight", _numbers(draw, sizes.heads))
    writer.add_tensor(f"{name}.ffn_gate_inp.weight", _numbers(draw, sizes.experts, sizes.hidden))
    writer.add_tensor(f"{name}.ffn_gate_inp.bias", _numbers(draw, sizes.experts))
    for own, (outputs, _) in _matrices_of_experts(sizes).items():
        writer.add_tensor(f"{name}.{own}.weight", experts[own], raw_dtype=MXFP4)
        writer.add_tensor(f"{name}.{own}.bias", _numbers(draw, sizes.experts, outputs))


def _matrices_of_experts(sizes: Sizes) -> dict[str, tuple[int, int]]:
    """The outputs and inputs of each."""
    into, out = (sizes.width, sizes.hidden), (sizes.hidden, sizes.width)
    return {"ffn_gate_exps": into, "ffn_up_exps": into, "ffn_down_exps": out}


def _blocks(draw: np.random.Generator, kind: GGMLQuantizationType, outputs: int, inputs: int) -> NDArray[np.uint8]:
    """A matrix of random codes, with weights of about 0.02."""
    blocks = FORMATS[kind.name]
    drawn = draw.integers(0, 256, (ROWS, inputs // blocks.inputs, blocks.bytes), dtype=np.uint8)
    if kind == MXFP4:
        drawn[..., 0] = draw.integers(117, 121, drawn.shape[:2])  # exponents
    else:
        drawn[..., :2] = np.array([2e-4], np.float16).view(np.uint8)
    return np.tile(drawn.reshape(ROWS, -1), (-(-outputs // ROWS), 1))[:outputs]


def _numbers(draw: np.random.Generator, *shape: int, mean: float = 0.0) -> NDArray[np.float32]:
    return draw.normal(mean, 0.05, shape).astype(np.float32)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("file", type=Path, help="GGUF file to write")
    write(parser.parse_args().file, Sizes())


if __name__ == "__main__":
    main()
