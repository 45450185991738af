"""Computes a batch with a transformers model whose layers keep states: each of its texts by itself."""

from torch import Tensor
from transformers import PreTrainedModel

from inference.cache.batch import Batch
from inference.cache.kv_cache import KVCache
from inference.cache.states import RowsAndStates
from inference.decoders.transformers_decoder import TransformersDecoder

FORGETFUL = ("bamba", "falcon_mamba", "jamba", "mamba", "recurrent_gemma")
"""Model types of transformers that forget a text's state where several tokens follow it, as a prompt's next part does.
In half precision the check at the start may not notice that."""


class StatefulDecoder:
    """A model of transformers with linear attention, state spaces or convolutions, in some or all of its layers.

    Their code knows one state for all tokens of a row. So each text of a step is a row of its own: steps of several
    texts take as long as these would one after the other.
    """

    has_same_bits = False
    name = "transformers' own forward, for one text at a time"

    def __init__(self, model: PreTrainedModel, cache: KVCache) -> None:
        """Take the model over.

        Raises:
            NotImplementedError: it cannot compute a prompt in parts.
        """
        if model.config.model_type in FORGETFUL:
            raise NotImplementedError(
                "its layers forget their states where several tokens follow. Expected a decoder that computes a prompt "
                "in parts."
            )
        self._decoder = TransformersDecoder(model)
        self._states = cache.storage = RowsAndStates(cache.rows, cache.slots, model.config)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values, and states, to the cache."""
        parts = [(rows, self._decoder.forward(part, self._states.of(slot))) for slot, part, rows in batch.texts()]
        logits = parts[0][1].new_empty(len(batch.sampled), parts[0][1].shape[1])
        for rows, of_part in parts:
            logits[rows] = of_part
        return logits
