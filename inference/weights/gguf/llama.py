"""A GGUF file as the neutral Llama structure: its quantized matrices stay as they lie in the file, which stays mapped.

No model of transformers is built, and nothing is dequantized but what is not quantized anyway. What is not exactly a
Llama-type model is refused with a reason; it is then loaded the general way, which also says what is wrong with it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.formats import FORMATS
from inference.weights.gguf.architectures import architecture_of
from inference.weights.gguf.file import Blocks, GGUFFile
from inference.weights.gguf.heads import is_llama
from inference.weights.gguf.numbers import PLAIN, dequantized
from inference.weights.gguf.weights import Weight, model_weights
from inference.weights.llama import Layer, Llama, NotLlama, Sizes
from inference.weights.quantized import Matrix, QuantizedMatrix
from inference.weights.rotary import angles


def llama_from_gguf(file: GGUFFile, config: PreTrainedConfig, dtype: torch.dtype, context: int) -> Llama:
    """The model in a file, to be computed in `dtype`.

    Raises:
        NotLlama: it is not of that type, or something about its weights is not as it should be.
    """
    _refuse_unsuitable(file, config, context)
    weights = _Weights(model_weights(file, config), dtype)
    hidden, head_dim = config.hidden_size, config.head_dim
    cosines, sines = angles(config, head_dim, context)
    has_norms = file.architecture in ("qwen3", "qwen3vl")  # of each head's queries and keys
    has_biases = "attn_q" in architecture_of(file).biased(config)
    embedding = weights.matrix("model.embed_tokens", config.vocab_size, hidden)
    head = embedding if config.tie_word_embeddings else weights.matrix("lm_head", config.vocab_size, hidden)
    llama = Llama(
        sizes=Sizes(
            config.num_attention_heads,
            config.num_key_value_heads,
            head_dim,
            epsilon=config.rms_norm_eps,
            scale=head_dim**-0.5,
        ),
        dtype=dtype,
        embedding=embedding,
        layers=[_layer(weights, number, config, has_norms, has_biases) for number in range(config.num_hidden_layers)],
        final_norm=weights.vector("model.norm.weight", hidden),
        head=head,
        cosines=cosines,
        sines=sines,
    )
    weights.refuse_rest()
    return llama


def _refuse_unsuitable(file: GGUFFile, config: PreTrainedConfig, context: int) -> None:
    if not is_llama(file):
        raise NotLlama(f"{architecture_of(file).model_type} is not an architecture of the Llama type")
    if config.num_attention_heads % config.num_key_value_heads:
        raise NotLlama(f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} keys and values")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < context:
        raise NotLlama(f"layers that look back {window} tokens only; expected the context's {context}")


def _layer(weights: "_Weights", number: int, config: PreTrainedConfig, has_norms: bool, has_biases: bool) -> Layer:
    prefix = f"model.layers.{number}"
    attention, feed_forward = f"{prefix}.self_attn", f"{prefix}.mlp"
    hidden, mlp, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    outputs = {f"{attention}.q_proj": queries, f"{attention}.k_proj": keys, f"{attention}.v_proj": keys}
    query, key, value = (weights.matrix(name, size, hidden) for name, size in outputs.items())
    return Layer(
        query=query,
        key=key,
        value=value,
        qkv_bias=weights.biases(outputs.items()) if has_biases else None,
        output=weights.matrix(f"{attention}.o_proj", hidden, queries),
        gate=weights.matrix(f"{feed_forward}.gate_proj", mlp, hidden),
        up=weights.matrix(f"{feed_forward}.up_proj", mlp, hidden),
        down=weights.matrix(f"{feed_forward}.down_proj", hidden, mlp),
        input_norm=weights.vector(f"{prefix}.input_layernorm.weight", hidden),
        mlp_norm=weights.vector(f"{prefix}.post_attention_layernorm.weight", hidden),
        query_norm=weights.vector(f"{attention}.q_norm.weight", head_dim) if has_norms else None,
        key_norm=weights.vector(f"{attention}.k_norm.weight", head_dim) if has_norms else None,
    )


class _Weights:
    """A file's weights under transformers' names; each is taken once, and must have the shape that is expected."""

    def __init__(self, weights: dict[str, Weight], dtype: torch.dtype) -> None:
        self._weights = weights
        self._dtype = dtype

    def matrix(self, name: str, outputs: int, inputs: int) -> Matrix:
        blocks = self._take(f"{name}.weight", (outputs, inputs))
        kind = blocks.kind.name
        if kind in PLAIN:
            return _finite(name, dequantized(blocks, self._dtype))
        if kind not in FORMATS:
            raise NotLlama(f"{name} is in the format {kind}; expected one of {', '.join(FORMATS)}")
        matrix = QuantizedMatrix(kind, blocks.data, inputs)
        if not matrix.is_finite():
            raise NotLlama(f"{name} has scales that are not finite")
        return matrix

    def vector(self, name: str, size: int) -> Tensor:
        """In float32, as norms and biases are in files and in the decoder."""
        return _finite(name, dequantized(self._take(name, (size,)), torch.float32))

    def biases(self, names: Iterable[tuple[str, int]]) -> Tensor | None:
        """The biases of several matrices together, where any of them has one; zeros for one that is not there."""
        wanted = [(f"{name}.bias", size) for name, size in names]
        if not any(name in self._weights for name, _ in wanted):
            return None
        return torch.cat(
            [self.vector(name, size) if name in self._weights else torch.zeros(size) for name, size in wanted]
        )

    def refuse_rest(self) -> None:
        if self._weights:
            raise NotLlama(f"weights that a Llama has no place for: {next(iter(self._weights))}")

    def _take(self, name: str, shape: tuple[int, ...]) -> Blocks:
        if name not in self._weights:
            raise NotLlama(f"there is no {name}")
        blocks = self._weights.pop(name).blocks
        if blocks is None:
            raise NotLlama(f"{name} is not in the file as it is")
        if blocks.shape != shape:
            raise NotLlama(f"{name} has the shape {blocks.shape}; expected {shape}")
        return blocks


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not tensor.isfinite().all():
        raise NotLlama(f"{name} has numbers that are not finite")
    return tensor
