"""The formats of quantized blocks that the decoder in C++ computes, as GGML has them. Without torch."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A format whose blocks have the weights of `inputs` inputs in `bytes` bytes; `number` is GGML's for it."""

    number: int
    inputs: int
    bytes: int
    halves: tuple[int, ...] = (0,)  # where in a block its float16 numbers are
    has_power: bool = False  # its scale is a power of two instead: the exponent is the first byte, with an offset

    @property
    def bits(self) -> float:
        """What a weight takes, with its part of the scales."""
        return 8 * self.bytes / self.inputs


FORMATS: Mapping[str, BlockFormat] = {
    "Q4_0": BlockFormat(2, 32, 18),
    "Q4_1": BlockFormat(3, 32, 20, (0, 2)),
    "Q5_0": BlockFormat(6, 32, 22),
    "Q5_1": BlockFormat(7, 32, 24, (0, 2)),
    "Q8_0": BlockFormat(8, 32, 34),
    "IQ4_NL": BlockFormat(20, 32, 18),
    "MXFP4": BlockFormat(39, 32, 17, (), has_power=True),
    "IQ4_XS": BlockFormat(23, 256, 136),
    "Q2_K": BlockFormat(10, 256, 84, (80, 82)),
    "Q3_K": BlockFormat(11, 256, 110, (108,)),
    "Q4_K": BlockFormat(12, 256, 144, (0, 2)),
    "Q5_K": BlockFormat(13, 256, 176, (0, 2)),
    "Q6_K": BlockFormat(14, 256, 210, (208,)),
}
