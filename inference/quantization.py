"""Weights in eight bits: each output's weights as whole numbers from -127 to 127 and one scale.

Only weights are rounded, never what flows between layers, so nothing need be measured or trained beforehand. A step
at few streams takes as long as reading the weights, and these are half as long to read as bfloat16.
"""

import torch
from torch import Tensor, nn

LARGEST = 127


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The whole numbers [outputs, inputs] and scales [outputs] whose products come nearest to a weight."""
    exact = weight.detach().float()
    scales = (exact.abs().amax(1) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (exact / scales[:, None]).round().to(torch.int8), scales


def round_weights(model: nn.Module) -> None:
    """Round the weights of all linear layers, in place, to what `to_int8` can tell apart.

    A model that ties its embedding to its last layer looks its tokens up in rounded weights too.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            numbers, scales = to_int8(layer.weight)
            layer.weight.data.copy_(numbers * scales[:, None])
