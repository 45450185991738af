"""Finds the class of transformers that loads a model, and the part that continues texts.

A model may be one of texts alone, or one that sees or hears as well. Only texts are served. Of a text, a model of
several senses computes what its language model computes.
"""

import inspect
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

if TYPE_CHECKING:
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel

# Nothing of transformers is imported at the top: with its mappings come the lists of all its models.


def continues_texts(config_class: type[PreTrainedConfig]) -> bool:
    """Whether transformers has a model for a configuration that continues texts.

    A model of several senses does so if it has no encoder for the text itself, and a forward that takes tokens with
    their positions, and nothing before them.

    Raises:
        ImportError: the model needs a package that is not installed.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

    if config_class in MODEL_FOR_CAUSAL_LM_MAPPING:
        return True
    if config_class not in MODEL_FOR_MULTIMODAL_LM_MAPPING or config_class.is_encoder_decoder:
        return False
    model_class: Any = MODEL_FOR_MULTIMODAL_LM_MAPPING[config_class]
    _, first, *others = inspect.signature(model_class.forward).parameters
    return first == "input_ids" and "position_ids" in others


def auto_class(config_class: type[PreTrainedConfig]) -> "type[AutoModelForCausalLM | AutoModelForMultimodalLM]":
    """The class that loads such a model."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return AutoModelForCausalLM if config_class in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForMultimodalLM


def decoder_of(model: "PreTrainedModel") -> Any:
    """The part of a model that continues texts, from the embedding to the final norm; all of it, if that is not told.

    What transformers finds by its name may be another thing: the last matrix of BERT is called a decoder.
    """
    from transformers import PreTrainedModel

    found = model.get_decoder()  # type: ignore[no-untyped-call]
    return found if isinstance(found, PreTrainedModel) else model
