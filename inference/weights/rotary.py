"""The angles of rotary embeddings that depend on the position alone, and heads of which a part is rotated."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from inference.weights.llama import NotLlama, Rotation
from inference.weights.quantized import Matrix, rows

FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn", "longrope")
"""Rotary embeddings whose angles depend on the position alone, not on how long the text is. Those of longrope do so up
to the length of the training; longer texts are refused elsewhere (`check_rotations`)."""


def fixed_length(parameters: Mapping[str, Any], positions: int) -> int:
    """How many of so many positions have angles that no longer text changes."""
    is_long = parameters.get("rope_type") == "longrope"
    return min(positions, parameters["original_max_position_embeddings"]) if is_long else positions


def angles(
    config: PreTrainedConfig, parameters: dict[str, Any], head_dim: int, positions: int, kind: str | None = None
) -> Rotation:
    """The angles of the first `positions` places, as transformers computes them, without a model.

    Args:
        parameters: of `config`, those of all layers or of one `kind` of them.

    Raises:
        NotLlama: the angles depend on how long the text is.
    """
    scheme = parameters.get("rope_type", "default")
    if scheme not in FIXED_ROTATIONS or fixed_length(parameters, positions) < positions:
        raise NotLlama(f"rotary embedding {scheme}; expected {', '.join(FIXED_ROTATIONS)}")
    if scheme == "default":
        rotated = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        halves = torch.arange(0, rotated, 2, dtype=torch.int64).float() / rotated
        frequencies, factor = 1.0 / parameters["rope_theta"] ** halves, 1.0
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies, factor = ROPE_INIT_FUNCTIONS[scheme](config, torch.device("cpu"), layer_type=kind)
    turns = torch.arange(positions).float()[:, None] * frequencies
    both = torch.cat([turns, turns], dim=-1)
    return Rotation(both.cos() * factor, both.sin() * factor)


def unrotated(like: Rotation) -> Rotation:
    """Angles of 0, for layers that do not rotate."""
    return Rotation(torch.ones_like(like.cosines), torch.zeros_like(like.sines))


def for_whole_heads(rotation: Rotation, head_dim: int) -> Rotation:
    """Angles [positions, rotated] as those of whole heads in the order of `in_rotated_order`; the rest's are 0."""
    rest = (head_dim - rotation.cosines.shape[1]) // 2
    if rest == 0:
        return rotation
    cosines, sines = (
        torch.cat([F.pad(half, (0, rest), value=value) for half in angles.chunk(2, dim=-1)], dim=-1)
        for angles, value in ((rotation.cosines, 1.0), (rotation.sines, 0.0))
    )
    return Rotation(cosines, sines)


def in_rotated_order(matrix: Matrix, rotated: int, head_dim: int) -> Matrix:
    """A matrix of queries or keys with each head's outputs in an order in which a head's halves are rotated.

    Where only a head's first `rotated` outputs are, their halves come first in the halves of the head. Products of
    queries and keys do not depend on the order, if both have the same.
    """
    if rotated == head_dim:
        return matrix
    numbers = torch.arange(head_dim)
    (first, second), (third, fourth) = numbers[:rotated].chunk(2), numbers[rotated:].chunk(2)
    order = torch.cat([first, third, second, fourth])
    heads = torch.arange(0, matrix.shape[0], head_dim)
    return rows(matrix, (heads[:, None] + order).flatten())
