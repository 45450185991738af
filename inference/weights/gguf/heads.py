"""Which models are of the Llama type, and how wide their attention is: what a decoder is compiled for.

Without torch and transformers, which take seconds to import: the compiler starts before.
"""

from inference.weights.formats import FORMATS
from inference.weights.gguf.file import BadGGUF, GGUFFile

OF_LLAMA = ("llama", "internlm2", "xverse", "baichuan", "exaone", "mistral", "mistral3", "seed_oss")
OF_QWEN = ("qwen", "qwen2", "qwen2vl", "qwen3", "qwen3vl")
VARIED = ("gemma", "gemma2", "gemma3", "granite", "minicpm", "phi3", "smollm3")
MIXTURES = ("llama", "qwen3moe", "qwen3vlmoe", "granitemoe", "gpt-oss")
"""Those that may have experts."""
LLAMAS = (*OF_LLAMA, *OF_QWEN, *VARIED, *MIXTURES)
"""The architectures whose files are of the Llama type, but for those that have one of `OTHERWISE`."""
ROTATED_IN_PART = ("phi3",)
"""Those of whose heads only a part may be rotated."""
OTHERWISE = (
    "expert_shared_feed_forward_length",
    "attention.temperature_scale",
    "rope.scaling.yarn_log_multiplier",
)
ROUTER = "ffn_gate_inp"
"""The end of the name of what chooses the experts: no matrix of the products that a decoder is compiled for."""
COMPUTED = {"F32", "F16", "BF16", *FORMATS}
"""The types of tensors that a decoder of our own computes with; all weights are dequantized if one has another."""


def is_llama(file: GGUFFile) -> bool:
    """Whether the model in a file is of the Llama type."""
    name = file.architecture
    otherwise = OTHERWISE if name in MIXTURES else (*OTHERWISE, "expert_count")
    return name in LLAMAS and not any(map(file.says, otherwise))


def has_experts(file: GGUFFile) -> bool:
    """Whether there are layers with experts."""
    return file.says("expert_count")


def stays_as_it_is(file: GGUFFile) -> bool:
    """Whether the blocks of a file are what the decoder in C++ computes from."""
    return is_llama(file) and file.kinds <= COMPUTED


def head_sizes(file: GGUFFile, rotates_in_part: bool = False, keeps_states: bool = False) -> tuple[int, int, int]:
    """The numbers of heads and of key/value heads, and how wide a head is.

    Args:
        rotates_in_part: heads of this architecture may be wider than what is rotated of them.
        keeps_states: some layers of this architecture may have no key/value heads.

    Raises:
        BadGGUF: heads of different widths, or not rotated as the architecture is.
    """
    hidden, heads = file.count("embedding_length"), file.count("attention.head_count")
    head_dim = _head_dim(file, max(1, hidden // heads), rotates_in_part)
    if file.count("attention.value_length", head_dim) != head_dim:
        raise BadGGUF(
            file.path,
            f"{file.architecture}.attention.value_length is not {head_dim}, the width of keys: keys and values of "
            f"different widths are not supported in GGUF",
        )
    key = "attention.head_count_kv"
    kv_heads = size_of_some(file, key, heads) if keeps_states else file.count(key, heads)
    return heads, kv_heads, head_dim


def attends(file: GGUFFile) -> list[bool]:
    """Which layers have keys and values; the others keep a state.

    Raises:
        BadGGUF: the file lists other than one number of key/value heads for each layer.
    """
    return [heads > 0 for heads in file.counts("attention.head_count_kv", file.count("attention.head_count"), least=0)]


def size_of_some(file: GGUFFile, key: str, default: int | None = None) -> int:
    """A size that some layers have, all the same, where the others have 0 for what they lack.

    Raises:
        BadGGUF: no layer has it, or they have different ones.
    """
    sizes = set(file.counts(key, default, least=0)) - {0}
    if len(sizes) != 1:
        raise BadGGUF(
            file.path,
            f"expected {file.architecture}.{key} to be the same number in all layers but those that have 0, got "
            f"{', '.join(map(str, sorted(sizes))) or 'nothing but 0'}",
        )
    return sizes.pop()


def _head_dim(file: GGUFFile, default: int, rotates_in_part: bool) -> int:
    """Files of Llama and Mistral whose heads are not hidden / heads wide may say so as the rotated width alone."""
    rotated = file.count("rope.dimension_count", default)
    head_dim = file.count("attention.key_length", default if rotates_in_part else rotated)
    is_whole = rotated == head_dim or f"{file.architecture}.rope.dimension_count" not in file.metadata
    if not is_whole and not (rotates_in_part and rotated < head_dim):
        raise BadGGUF(
            file.path,
            f"{file.architecture}.rope.dimension_count is {rotated}, and attention.key_length {head_dim}: heads of "
            f"which a part is rotated are not supported in GGUF",
        )
    return head_dim
