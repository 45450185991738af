"""The angles of rotary embeddings that depend on the position alone, without a model of transformers."""

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.llama import FIXED_ROTATIONS, NotLlama


def angles(config: PreTrainedConfig, head_dim: int, positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, head_dim], in float32, as transformers' Llama computes them.

    Raises:
        NotLlama: the angles depend on how long the text is.
    """
    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in FIXED_ROTATIONS:
        raise NotLlama(f"rotary embedding {kind}; expected {', '.join(FIXED_ROTATIONS)}")
    if kind == "default":
        halves = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        frequencies, factor = 1.0 / parameters["rope_theta"] ** halves, 1.0
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    turns = torch.arange(positions).float()[:, None] * frequencies
    both = torch.cat([turns, turns], dim=-1)
    return both.cos() * factor, both.sin() * factor
