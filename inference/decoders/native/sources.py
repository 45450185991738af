"""What the decoder in C++ is compiled from. Without torch: its compiler starts before that is imported."""

import re
from collections.abc import Iterable
from pathlib import Path

from inference.cache.sizes import PAGE_TOKENS
from inference.cpp.build import Unit
from inference.cpp.library_cache import CPUINFO
from inference.weights.formats import FORMATS

DECODER = Path(__file__).with_name("decoder.cpp")
KERNELS = Path(__file__).with_name("kernels.cpp")
AMD = r"^vendor_id\s*: AuthenticAMD\ncpu family\s*: "
ZEN_4 = re.compile(AMD + r"25\nmodel\s*: (1[6-9]|2\d|3[01]|9[6-9]|1[0-7]\d)$", re.MULTILINE)
ZEN_5 = re.compile(AMD + r"26$", re.MULTILINE)
STRIP = 16
"""Outputs of a quantized matrix that are packed together."""


def stays_quantized(kind: str, outputs: int) -> bool:
    """Whether a matrix is surely packed as its blocks are: they may be unknown, or fill no whole strips."""
    return kind in FORMATS and outputs % STRIP == 0


def ways_of_processor() -> dict[str, int]:
    """How packed weights are best read and multiplied, by macro, on the processors that were measured.

    PAST_CACHES: weights, which are read once a step, are best kept out of the larger caches. So they are on AMD's
    Zen 5. On Zen 4, steps of few rows then take up to a third longer.
    READS_AHEAD: what few rows are multiplied with is best not asked for, since the processor itself reads ahead. Zen 4
    does, and a step of one row takes 0.67 to 0.98 of the time.
    ONE_PRODUCT: one product of 512 bits starts in a cycle, not two. So it is on Zen 4, where the formats in "K" are
    best multiplied strip by strip: eight to sixteen rows take 0.91 to 0.97 of the time.
    """
    try:
        with CPUINFO.open() as lines:
            processor = lines.read(1000)
    except OSError:
        processor = ""
    is_zen_4 = int(ZEN_4.search(processor) is not None)
    is_zen_5 = int(ZEN_5.search(processor) is not None)
    return {"PAST_CACHES": is_zen_5, "READS_AHEAD": is_zen_4, "ONE_PRODUCT": is_zen_4}


def decoder_units(
    is_bfloat16: bool,
    formats: Iterable[int],
    has_plain: bool,
    head_dim: int,
    group: int,
    has_experts: bool = False,
) -> list[Unit]:
    """What is compiled for a model: the decoder, and in bfloat16 the products of each format apart.

    Args:
        formats: GGML's numbers of its matrices' formats, but of plain ones.
        has_plain: whether some of its matrices may be plain; their products take long to compile.
        group: how many query heads share a key/value head.
    """
    bits = {number: 1 << number for number in sorted(set(formats))}
    ways = ways_of_processor()
    kinds = {"BF16": int(is_bfloat16), "FORMATS": sum(bits.values()), "HAS_PLAIN": int(has_plain)} | ways
    sizes = {"HEAD_DIM": head_dim, "GROUP": group, "PAGE_TOKENS": PAGE_TOKENS, "EXPERTS": int(has_experts)}
    decoder = Unit(DECODER, kinds | sizes)
    kernels = {"BF16": 1} | ways
    return [decoder, *(Unit(KERNELS, kernels | {"FORMATS": bit}) for bit in bits.values() if is_bfloat16)]
