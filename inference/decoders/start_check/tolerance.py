"""How far a decoder's logits are from the model's own, and how far they may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.decoders.start_check.in_pieces import TOGETHER

HALF_PRECISION = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""
FLOAT32 = 1e-3
"""The same in float32."""
QUANTIZED = 1.0
"""The root mean square of the difference, relative to the logits', where weights are rounded to few bits. Logits that
have nothing to do with each other differ by 1.4; quantized products are tried out by themselves, to rounding."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The difference that is near enough for one precision. NaN never is."""

    limit: float
    is_exact: bool
    """Whether every row counts, and not the middle one."""

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Tolerance":
        return cls(HALF_PRECISION.get(dtype, FLOAT32), is_exact=dtype not in HALF_PRECISION)

    def admits(self, difference: float) -> bool:
        return difference <= self.limit

    def difference(self, logits: Tensor, expected: Tensor) -> float:
        """The largest of any row of [compared, vocabulary]; in half precision the middle row's, together or alone.

        There, a router may choose another expert when a sum is rounded another way, and that token's logits jump. What
        is wrong with a decoder shows in every row.
        """
        rows = (logits.float() - expected.float()).abs().amax(-1) / expected.float().abs().max()
        if not self.is_exact:
            rows = torch.stack([part.median() for part in torch.split(rows, TOGETHER)])
        return float(rows.max().item())


def typical_difference(logits: Tensor, expected: Tensor) -> float:
    """Root mean square, relative to the logits'."""
    return float((torch.linalg.norm(logits.float() - expected.float()) / torch.linalg.norm(expected.float())).item())


def largest(differences: Sequence[float]) -> float:
    """The largest difference, 0 if there are none, and NaN if any is, which `max` may overlook."""
    return next((difference for difference in differences if math.isnan(difference)), max(differences, default=0.0))
