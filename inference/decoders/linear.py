"""A product with a plain or packed matrix: the one place where the engine chooses how it is computed.

On a CPU a decode step is little else than reading every weight once. oneDNN reads a matrix nearly as fast as the
memory delivers it if the matrix lies in blocks made for its kernels; given a plain one, it rearranges it at every
call. So in half precision matrices are packed. In float32 plain matrices are as fast, and stay.

For each number of tokens oneDNN makes a kernel, and keeps it with its scratch memory. By default it keeps 1,024 of
them, which take gigabytes once there were prompts of all lengths. `KERNELS` limits them.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = 32
"""Kernels that are kept: a step needs about five. To make one again takes a millisecond."""
for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # read when the first kernel is made
    os.environ.setdefault(variable, str(KERNELS))
ROWS = 16
"""How many tokens oneDNN is told to expect; it lays the blocks out alike for one and for hundreds."""


class Linear:
    """A product with a matrix [outputs, inputs], packed if that is faster here."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self.is_packed = is_packable(weight)
        # A plain matrix stays as it is, not copied.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS) if self.is_packed else weight

    def plain_weight(self) -> Tensor:
        """The matrix [outputs, inputs] as it was."""
        plain: Tensor = self._weight.to_dense() if self.is_packed else self._weight
        return plain

    def __call__(self, input: Tensor, plus: Tensor | None = None) -> Tensor:
        """The product, and `plus` added to it."""
        if not self.is_packed:
            output = F.linear(input, self._weight, self.bias)
            return output if plus is None else output + plus
        if plus is None:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._weight, self.bias, "none", [], "")
        else:
            packed = torch.ops.mkldnn._linear_pointwise.binary(input, plus, self._weight, self.bias, "add")
        return packed


def is_packable(weight: Tensor) -> bool:
    """Whether this processor multiplies with a matrix of this precision faster if it is packed."""
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return weight.device.type == "cpu" and weight.dtype in supported and supported[weight.dtype]()
