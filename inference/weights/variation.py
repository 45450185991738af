"""How models of the Llama type vary, as their configurations say: what `take_apart` and the reader of GGUF files share.

Scales need nothing of a decoder but a scale of the embedding. What Granite multiplies each addition to the hidden
states by can be taken out of all of them: the hidden states become larger by its inverse, and norms, which divide by
their size, do not see that, if their epsilon is larger by its square. What divides the logits goes into the last norm.
"""

import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from inference.weights.context import SLIDING
from inference.weights.llama import Experts, Limits, NotLlama, Sizes

MIXTURES = ("mixtral", "qwen3_moe", "granitemoe", "granitemoeshared", "gpt_oss")
"""They have experts."""
MODEL_TYPES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "phi3", "smollm3"),
    *MIXTURES,
)
"""Those of the Llama type, by transformers' names for them. A setting that a type does not have may still be in its
configuration, and means nothing there."""
GEMMAS = ("gemma", "gemma2", "gemma3_text")
"""They have 1 added to the weights of their norms, and an embedding that grows with its width."""
FOUR_NORMS = ("gemma2", "gemma3_text")
"""They have norms behind attention and MLP, too, and bounds of logits."""
GRANITES = ("granite", "granitemoe", "granitemoeshared")
"""They have scales."""
SAME_WINDOWS = ("mistral", "phi3", "mixtral", "qwen3_moe")
"""All layers may have a window."""
OWN_WINDOWS = ("qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "gpt_oss")
"""Layers of one kind may have a window."""
ACTIVATIONS = {"silu": False, "swish": False, "gelu_pytorch_tanh": True}
"""Those of the MLP, and whether it is a GELU."""


def is_of_llama_type(config: PreTrainedConfig, dtype: torch.dtype) -> bool:
    """Whether a configuration is that of a Llama-type model; the weights may still say otherwise."""
    if config.model_type not in MODEL_TYPES:
        return False
    try:
        Variation.of(config, config.model_type, dtype)
    except NotLlama:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Variation:
    """What a model of the Llama type has of its own, but for its weights."""

    config: PreTrainedConfig  # of the part that continues texts
    model_type: str
    embedding_scale: float
    epsilon: float  # of norms of the hidden states
    logits_scale: float
    is_gelu: bool

    @classmethod
    def of(cls, config: PreTrainedConfig, model_type: str, dtype: torch.dtype) -> "Variation":
        """The variation of a model to be computed in `dtype`; of its configuration only some settings need be there.

        Raises:
            NotLlama: it varies in something else.
        """
        if getattr(config, "use_bidirectional_attention", None):
            raise NotLlama("attention to what comes later in the text (use_bidirectional_attention)")
        if model_type in MIXTURES:
            _check_experts(config, model_type)
        activation = getattr(config, "hidden_activation" if model_type in FOUR_NORMS else "hidden_act", "silu")
        if activation not in ACTIVATIONS:
            raise NotLlama(f"activation {activation}; expected one of {', '.join(ACTIVATIONS)}")
        names = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
        scales = {name: getattr(config, name) if model_type in GRANITES else 1.0 for name in names}
        for name, scale in scales.items():
            if not 0 < scale < math.inf:
                raise NotLlama(f"{name} {scale}; expected a finite number above 0")
        of_embedding, of_additions, of_logits = scales.values()
        if model_type in GEMMAS:  # which were trained with what is left of it in the precision of the weights
            of_embedding = torch.tensor(config.hidden_size**0.5).to(dtype).item()
        return cls(
            config,
            model_type,
            embedding_scale=of_embedding / of_additions,
            epsilon=config.rms_norm_eps / of_additions**2,
            logits_scale=1 / of_logits,
            is_gelu=ACTIVATIONS[activation],
        )

    def sizes(self, head_dim: int, score_scale: float) -> Sizes:
        """What all layers have in common."""
        return Sizes(
            heads=self.config.num_attention_heads,
            kv_heads=self.config.num_key_value_heads,
            head_dim=head_dim,
            epsilon=self.epsilon,
            scale=score_scale,
            embedding_scale=self.embedding_scale,
            is_gelu=self.is_gelu,
            score_cap=self.score_cap,
            logit_cap=self.logit_cap,
            experts=self.experts,
            limits=self.limits,
        )

    @property
    def limits(self) -> Limits | None:
        """Those of gates and ups; None if they have none."""
        if self.model_type != "gpt_oss":
            return None
        return Limits(_swiglu_limit(self.config), getattr(self.config, "swiglu_alpha", 1.702))

    @property
    def experts(self) -> Experts | None:
        """How tokens find their experts; None if there are none."""
        if self.model_type not in MIXTURES:
            return None
        is_qwen = self.model_type == "qwen3_moe"
        count = self.config.num_experts if is_qwen else self.config.num_local_experts
        adds_up = self.config.norm_topk_prob if is_qwen else True
        return Experts(count, self.config.num_experts_per_tok, adds_up)

    @property
    def places_of_experts(self) -> tuple[str, str]:
        """Where a layer of transformers has its experts, and what chooses them."""
        if self.model_type in GRANITES:
            return "block_sparse_moe.experts", "block_sparse_moe.router"
        return "mlp.experts", "mlp.router" if self.model_type == "gpt_oss" else "mlp.gate"

    @property
    def norm_offset(self) -> float:
        """What a norm adds to its weights."""
        return 1.0 if self.model_type in GEMMAS else 0.0

    @property
    def has_four_norms(self) -> bool:
        """Whether a layer has norms behind attention and MLP, too."""
        return self.model_type in FOUR_NORMS

    @property
    def has_sinks(self) -> bool:
        """Whether each head has a score that takes a share of the weights, and has no value."""
        return self.model_type == "gpt_oss"

    @property
    def has_head_norms(self) -> bool:
        """Whether each head's queries and keys have a norm."""
        return self.model_type in ("qwen3", "qwen3_moe", "gemma3_text")

    @property
    def score_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        if self.model_type in FOUR_NORMS:
            return float(self.config.query_pre_attn_scalar**-0.5)
        return float(self.config.attention_multiplier if self.model_type in GRANITES else self.config.head_dim**-0.5)

    @property
    def score_cap(self) -> float | None:
        """A bound that scores approach. (Gemma 3 has the setting, and transformers takes no notice of it.)"""
        return self.config.attn_logit_softcapping if self.model_type == "gemma2" else None

    @property
    def logit_cap(self) -> float | None:
        """A bound that logits approach."""
        return self.config.final_logit_softcapping if self.model_type in FOUR_NORMS else None

    @property
    def changes_logits(self) -> bool:
        """Whether something follows the last matrix, or is part of the last norm."""
        return self.logits_scale != 1 or self.logit_cap is not None

    def window(self, number: int) -> int | None:
        """How many positions a layer's tokens look back, themselves included; None: to the beginning."""
        window: int | None = getattr(self.config, "sliding_window", None)
        if window is None or self.model_type in SAME_WINDOWS:
            return window
        if self.model_type not in OWN_WINDOWS or not getattr(self.config, "use_sliding_window", True):
            return None
        return window if self.config.layer_types[number] == SLIDING else None

    def is_rotated(self, number: int) -> bool:
        """Whether a layer's queries and keys are."""
        if self.model_type != "smollm3":
            return True
        if (rotated := getattr(self.config, "no_rope_layers", None)) is not None:  # 1 where they are
            return bool(rotated[number])
        return (number + 1) % int(self.config.no_rope_layer_interval) != 0

    def kind(self, number: int) -> str | None:
        """The kind of layer by which rotary embeddings differ; None if all have the same."""
        return self.config.layer_types[number] if self.model_type == "gemma3_text" else None


def _check_experts(config: PreTrainedConfig, model_type: str) -> None:
    """Raises NotLlama if a mixture has what the decoders do not know."""
    if model_type == "granitemoeshared" and config.shared_intermediate_size:
        raise NotLlama("an expert for all tokens (shared_intermediate_size)")
    if model_type == "gpt_oss" and not _swiglu_limit(config) > 0:
        raise NotLlama(f"swiglu_limit {_swiglu_limit(config)}; expected more than 0")


def _swiglu_limit(config: PreTrainedConfig) -> float:
    """A GGUF file does not have it, as all models have the same."""
    return float(getattr(config, "swiglu_limit", 7.0))
