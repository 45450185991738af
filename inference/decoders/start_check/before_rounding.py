"""Checks a model before its weights are rounded: what it computes differently would pass for what rounding changes."""

from typing import TYPE_CHECKING

from inference.cache.kv_cache import KVCache
from inference.decoders.start_check.few_layers import layers_of_each_kind, shortened
from inference.decoders.start_check.trial import Trial
from inference.decoders.torch_decoder import TorchDecoder
from inference.weights.take_apart import take_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXT = 64
SLOTS = 2
LAYERS = 2
"""At least this many: what a token's layer sees of later tokens shows in the next layer's keys and values."""


def check_before_rounding(model: "PreTrainedModel", context: int) -> None:
    """Compare the first layers of a Llama-type model, one of each kind, with operators of torch on the same weights.

    The model is whole again afterwards.

    Raises:
        UnsupportedModel: the logits are not the model's own.
    """
    few = layers_of_each_kind(model)
    assert few is not None, "a Llama-type model has one list of layers"
    with shortened(model, max(few.count, LAYERS)):
        cache = KVCache(SLOTS, min(context, CONTEXT))
        trial = Trial(model, cache, depends_on_length=False)
        trial.verify(TorchDecoder(take_apart(model, cache.row_length)))
