"""The angles of rotary embeddings that depend on the position alone, and heads of which a part is rotated."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from inference.weights.llama import NotLlama, Rotation
from inference.weights.quantized import Matrix, rows
from inference.weights.variation import Variation

FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn", "longrope")
"""Rotary embeddings whose angles depend on the position alone, not on how long the text is. Those of longrope do so up
to the length of the training; longer texts are refused elsewhere (`check_rotations`)."""


def fixed_length(config: PreTrainedConfig, kind: str | None, positions: int) -> int:
    """How many of so many positions have angles that no longer text changes, in layers of a kind (None: in all)."""
    parameters = _parameters(config, kind)
    is_long = parameters.get("rope_type") == "longrope"
    return min(positions, parameters["original_max_position_embeddings"]) if is_long else positions


def angles(config: PreTrainedConfig, kind: str | None, head_dim: int, positions: int) -> Rotation:
    """The angles of the first `positions` places in layers of a kind, as transformers computes them, without a model.

    Raises:
        NotLlama: the angles depend on how long the text is, or there are none.
    """
    parameters = _parameters(config, kind)
    scheme = parameters.get("rope_type", "default")
    if scheme not in FIXED_ROTATIONS or fixed_length(config, kind, positions) < positions:
        raise NotLlama(f"rotary embedding {scheme}; expected {', '.join(FIXED_ROTATIONS)}")
    if scheme == "default":
        rotated = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        halves = torch.arange(0, rotated, 2, dtype=torch.int64).float() / rotated
        frequencies, factor = 1.0 / parameters["rope_theta"] ** halves, 1.0
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        try:
            frequencies, factor = ROPE_INIT_FUNCTIONS[scheme](config, torch.device("cpu"), layer_type=kind)
        except (ArithmeticError, ValueError) as error:  # of some numbers, no logarithm or no quotient
            raise NotLlama(f"a rotary embedding {scheme} that cannot be computed ({error})") from error
    turns = torch.arange(positions).float()[:, None] * frequencies
    both = torch.cat([turns, turns], dim=-1)
    return Rotation(both.cos() * factor, both.sin() * factor)


def of_both_halves(half: Rotation) -> Rotation:
    """The angles of heads of one half's."""
    return Rotation(*(torch.cat([angles, angles], dim=-1) for angles in (half.cosines, half.sines)))


def unrotated(like: Rotation) -> Rotation:
    """Angles of 0, for layers that do not rotate."""
    return Rotation(torch.ones_like(like.cosines), torch.zeros_like(like.sines))


def _parameters(config: PreTrainedConfig, kind: str | None) -> dict[str, Any]:
    parameters: dict[str, Any] = config.rope_parameters
    return parameters if kind is None else parameters[kind]


def of_layers(
    variation: Variation, layers: int, head_dim: int, angles_of: Callable[[str | None], Rotation]
) -> list[tuple[int, Rotation]]:
    """How many of a head's numbers are rotated in each layer, and by which angles, those of whole heads.

    Args:
        angles_of: makes those of a kind of layer; they may be for a part of a head.
    """

    @functools.cache
    def of_kind(is_rotated: bool, kind: str | None) -> tuple[int, Rotation]:
        rotation = angles_of(kind)
        whole = for_whole_heads(rotation, head_dim)
        return rotation.cosines.shape[1], whole if is_rotated else unrotated(whole)

    return [of_kind(variation.is_rotated(number), variation.kind(number)) for number in range(layers)]


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
