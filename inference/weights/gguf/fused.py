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


def separated(file: GGUFFile) -> GGUFFile:
    """The file as it would be if its queries, keys and values were tensors of their own; one of another size is left.

    Raises:
        BadGGUF: it does not say how many heads there are.
    """
    fused = [name for name in file.tensors if f".{FUSED}." in name]
    if not fused or file.architecture not in ARCHITECTURES.keys() - FUSED_EVERYWHERE:
        return file
    heads, kv_heads, head_dim = head_sizes(file, ARCHITECTURES[file.architecture].rotates_in_part)
    tensors = dict(file.tensors)
    for name in fused:
        if tensors[name].shape[0] == (heads + 2 * kv_heads) * head_dim:
            blocks, begin = tensors.pop(name), 0
            for own, count in zip(QKV, (heads, kv_heads, kv_heads), strict=True):
                part = _rows(blocks, name.replace(FUSED, own), begin, begin + count * head_dim)
                tensors[part.name] = part
                begin += count * head_dim
    return dataclasses.replace(file, tensors=tensors)


def _rows(blocks: Blocks, name: str, begin: int, end: int) -> Blocks:
    if len(blocks.shape) > 1:
        return Blocks(name, blocks.kind, (end - begin, *blocks.shape[1:]), blocks.data[begin:end])
    width = blocks.data.shape[1] // blocks.shape[0]  # of a number: biases are not quantized
    return Blocks(name, blocks.kind, (end - begin,), blocks.data[:, begin * width : end * width])
