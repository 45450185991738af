"""Says how much memory the states of a text take, before there is memory for the model."""

import copy

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from inference.cache.states import has_states, tensors_of
from inference.weights.model_classes import auto_class


def bytes_of_states(config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one text's states; 0 if the model keeps none, or if it cannot run without its weights.

    No configuration says how large states are, so a model without weights computes two tokens.

    Args:
        dtype: the precision of the model. States that are in float32 at any precision stay so.
    """
    try:
        if not has_states(config):
            return 0
        with torch.device("meta"):
            # In bfloat16, since torch's grouped products of experts are for nothing else there.
            model = auto_class(type(config)).from_config(copy.deepcopy(config), dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
            output = model(torch.zeros(1, 2, dtype=torch.int64), use_cache=True)
        states = [state for value in output.values() if isinstance(value, Cache) for state in tensors_of(value)]
    except Exception:  # from transformers' code, which says why when the model is loaded
        return 0
    return sum(state.numel() * (dtype if state.dtype == torch.bfloat16 else state.dtype).itemsize for state in states)
