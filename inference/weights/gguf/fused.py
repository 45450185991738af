"""Takes apart the queries, keys and values that llama.cpp's converter puts into one tensor if asked (`--fuse-qkv`).

Rows stay whole, so the parts are views of the same blocks. Phi-3, DBRX and GPT have one matrix in transformers, too.
"""

import dataclasses

from inference.weights.gguf.architecture import QKV
from inference.weights.gguf.architectures import ARCHITECTURES
from inference.weights.gguf.file import Blocks, GGUFFile
from inference.weights.gguf.heads import head_sizes

FUSED = "attn_qkv"
FUSED_EVERYWHERE = ("phi3", "gpt2", "starcoder", "gptneox", "dbrx")
STATE, ATTENTION = "ssm_conv1d.weight", "attn_output.weight"
"""A layer that has the first and not the second has linear attention, whose matrix has this name, too."""


def separated(file: GGUFFile) -> GGUFFile:
    """The file as it would be if its queries, keys and values were tensors of their own; one of another size is left.

    Raises:
        BadGGUF: it does not say how many heads there are.
    """
    fused = [name for name in file.tensors if f".{FUSED}." in name and not _is_linear(file, name)]
    if not fused or file.architecture not in ARCHITECTURES.keys() - FUSED_EVERYWHERE:
        return file
    architecture = ARCHITECTURES[file.architecture]
    heads, kv_heads, head_dim = head_sizes(file, architecture.rotates_in_part, architecture.keeps_states)
    counts = (2 * heads if architecture.has_gated_queries else heads, kv_heads, kv_heads)
    tensors = dict(file.tensors)
    for name in fused:
        if tensors[name].shape[0] == sum(counts) * head_dim:
            blocks, begin = tensors.pop(name), 0
            for own, count in zip(QKV, counts, strict=True):
                part = _rows(blocks, name.replace(FUSED, own), begin, begin + count * head_dim)
                tensors[part.name] = part
                begin += count * head_dim
    return dataclasses.replace(file, tensors=tensors)


def _is_linear(file: GGUFFile, name: str) -> bool:
    layer = name.partition(f".{FUSED}.")[0]
    return f"{layer}.{STATE}" in file.tensors and f"{layer}.{ATTENTION}" not in file.tensors


def _rows(blocks: Blocks, name: str, begin: int, end: int) -> Blocks:
    if len(blocks.shape) > 1:
        return Blocks(name, blocks.kind, (end - begin, *blocks.shape[1:]), blocks.data[begin:end])
    width = blocks.data.shape[1] // blocks.shape[0]  # of a number: biases are not quantized
    return Blocks(name, blocks.kind, (end - begin,), blocks.data[:, begin * width : end * width])
