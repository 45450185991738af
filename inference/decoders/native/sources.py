"""The sources in C++, and the macros that they are compiled with. Without torch: compilers start before it is there."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from inference.cache.sizes import CHUNK

DECODER = Path(__file__).with_name("decoder.cpp")
CHOOSER = Path(__file__).parents[2] / "sampling" / "choose.cpp"
CHOOSER_DEFINITIONS: Mapping[str, int] = {"BF16": 0}


def decoder_definitions(is_bfloat16: bool, formats: Iterable[int], head_dim: int, group: int) -> dict[str, int]:
    """The macros for a model.

    Args:
        formats: GGML's numbers of its matrices' formats, but of plain ones.
        group: how many query heads share a key/value head.
    """
    bits = sum(1 << number for number in set(formats))
    return {"BF16": int(is_bfloat16), "FORMATS": bits, "HEAD_DIM": head_dim, "GROUP": group, "CHUNK": CHUNK}
