"""Which models are of the Llama type, and how wide their attention is: what a decoder is compiled for.

Without torch and transformers, which take seconds to import: the compiler starts before.
"""

from inference.weights.formats import FORMATS
from inference.weights.gguf.file import BadGGUF, GGUFFile

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
COMPUTED = {"F32", "F16", "BF16", *FORMATS}
"""The types of tensors that a decoder of our own computes with; all weights are dequantized if one has another."""


def stays_as_it_is(file: GGUFFile) -> bool:
    """Whether the blocks of a file are what the decoder in C++ computes from."""
    return file.architecture in LLAMAS and file.kinds <= COMPUTED


def head_sizes(file: GGUFFile) -> tuple[int, int, int]:
    """The numbers of heads and of key/value heads, and how wide a head is.

    Raises:
        BadGGUF: heads of different widths, or rotated in part.
    """
    hidden, heads = file.count("embedding_length"), file.count("attention.head_count")
    head_dim = _head_dim(file, hidden, heads)
    if file.count("attention.value_length", head_dim) != head_dim:
        raise BadGGUF(file.path, "keys and values of different widths are not supported in GGUF")
    return heads, file.count("attention.head_count_kv", heads), head_dim


def _head_dim(file: GGUFFile, hidden: int, heads: int) -> int:
    """Files of Llama and Mistral whose heads are not hidden / heads wide may say so as the rotated width alone."""
    default = max(1, hidden // heads)
    rotated = file.count("rope.dimension_count", default)
    if file.architecture == "phi3":
        return file.count("attention.key_length", default)
    head_dim = file.count("attention.key_length", rotated)
    if rotated != head_dim and f"{file.architecture}.rope.dimension_count" in file.metadata:
        raise BadGGUF(file.path, f"heads of {head_dim} of which {rotated} are rotated are not supported in GGUF")
    return head_dim
