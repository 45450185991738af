"""Computes a batch with a transformers model whose layers keep states: texts that decode together, others alone."""

from collections.abc import Sequence

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

    Their code knows one state for all tokens of a row. So each text is a row of its own: all that decode are computed
    together, with one token in a row, and prefill chunks, whose rows have other lengths, one after the other.
    """

    has_same_bits = False
    name = "transformers' own forward, with a row for each text"

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
        found = [(rows, self._of_part(part, slots)) for slots, part, rows in batch.parts()]
        logits = found[0][1].new_empty(len(batch.sampled), found[0][1].shape[1])
        for rows, of_part in found:
            logits[rows] = of_part
        return logits

    def _of_part(self, part: Batch, slots: Sequence[int]) -> Tensor:
        with self._states.of(slots) as states:
            return self._decoder.forward(part, states)
