"""The logits of a model alone, which a decoder has to give."""

import inspect
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from inference.decoders.start_check.finite import refuse_not_finite
from inference.weights.weight_checks import reason
from interface.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def own_logits(model: "PreTrainedModel", token_ids: Sequence[int], wanted: int) -> Tensor:
    """Return the logits [wanted, vocabulary] of the last tokens, from the model alone.

    They are computed as transformers' `generate` does, the last ones one by one over a cache of its own: that cache may
    forget what is outside a window.

    Raises:
        UnsupportedModel: it gives no logits, or some that are not numbers.
    """
    name = type(model).__name__
    ids = torch.tensor([list(token_ids)], device=model.device)
    try:
        logits = _as_generate_computes(model, ids, wanted)
    except Exception as error:
        raise UnsupportedModel(
            f"{name} cannot compute a text of {len(token_ids)} tokens by itself{_in_its_part(error, model)}: "
            f"{reason(error)}"
        ) from error
    refuse_not_finite(name, logits, model.dtype)
    return logits


def _as_generate_computes(model: "PreTrainedModel", ids: Tensor, wanted: int) -> Tensor:
    takes_keep = takes_logits_to_keep(model)
    prompt = ids.shape[1] - wanted + 1
    output = model(ids[:, :prompt], use_cache=True, **({"logits_to_keep": 1} if takes_keep else {}))
    named = name_of_cache(model)
    cache = getattr(output, named, None)
    if cache is None:  # a model without keys and values, or without a cache for them
        output = model(ids, use_cache=False, **({"logits_to_keep": wanted} if takes_keep else {}))
        logits: Tensor = output.logits[0, -wanted:]
        return logits
    rows = [output.logits[0, -1]]
    for position in range(prompt, ids.shape[1]):
        output = model(ids[:, position : position + 1], use_cache=True, **{named: cache})
        rows.append(output.logits[0, -1])
    return torch.stack(rows)


def _in_its_part(error: Exception, model: "PreTrainedModel") -> str:
    """The part of a model whose code raised an error: where the error does not name a setting, this tells what uses it.

    Parts of torch, such as a product, are only where it came to light.
    """
    owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    parts = [type(owner) for owner in owners if isinstance(owner, nn.Module) and owner is not model]
    own = [part.__name__ for part in parts if part.__module__.startswith("transformers.models.")]
    return f", in its {own[-1]}" if own else ""


def takes_logits_to_keep(model: "PreTrainedModel") -> bool:
    return _takes(model, "logits_to_keep")


def name_of_cache(model: "PreTrainedModel") -> str:
    """The argument, and the field of the output, that is the cache of keys and values, and of states."""
    names = ("cache", "cache_params", "past_key_values")  # the first from transformers 5.24 on, the second in Mamba
    return next((name for name in names if _takes(model, name)), names[-1])


def _takes(model: "PreTrainedModel", argument: str) -> bool:
    return argument in inspect.signature(model.forward).parameters
