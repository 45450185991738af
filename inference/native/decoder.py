"""Packs a model's weights for decoder.cpp, and calls it once per step.

Invariant: everything that a pointer in a structure points to is held by the `NativeDecoder` that made it, or, for a
step's own tensors, by the call.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from inference.batch import Batch
from inference.kv_cache import KVCache
from inference.native.build import build
from inference.quantization import to_int8

SOURCE = Path(__file__).with_name("decoder.cpp")
MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone, not on how long the text is."""

HALF_PANEL, PANEL, BLOCK = 16, 32, 32
"""Outputs of which weights lie side by side, outputs of a panel, and what inputs and rows are filled up to."""


class NotNative(Exception):
    """The model is not one that decoder.cpp can compute; the message says why."""


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "rounded", "scales", "bias")),
        ("inputs", ctypes.c_int64),
        ("panel_count", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Matrix) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm", "keys", "values")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("head", _Matrix),
        *((name, ctypes.c_void_p) for name in ("embedding", "final_norm", "cosines", "sines")),
        *((name, ctypes.c_int64) for name in ("layer_count", "hidden", "vocabulary", "kv_heads", "context", "widest")),
        ("epsilon", ctypes.c_double),
        ("scale", ctypes.c_double),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "slots", "sampled")),
        *((name, ctypes.c_int64) for name in ("token_count", "sampled_count", "threads")),
        *((name, ctypes.c_void_p) for name in ("neighbours", "hidden", "qkv", "normed", "attended", "activated")),
        *((name, ctypes.c_void_p) for name in ("scores", "widened", "logits")),
    )


class NativeDecoder:
    """A model of one of the kinds `MODELS`, on a CPU, in float32 or bfloat16; its weights in eight bits if asked for.

    Raises:
        NotNative: the model is of another kind.
        CannotBuild: it cannot be compiled here.
    """

    def __init__(self, model: PreTrainedModel, cache: KVCache, is_quantized: bool = False) -> None:
        _check(model, cache.context)
        config = model.config
        decoder: Any = model.model
        attention = decoder.layers[0].self_attn
        kv_heads, group = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
        self._held: list[Tensor] = []
        self._dtype = model.dtype
        self._is_quantized = is_quantized
        self._widest = 0  # numbers in the largest panel that is kept in eight bits
        self._library = build(
            SOURCE, {"BF16": int(model.dtype == torch.bfloat16), "HEAD_DIM": attention.head_dim, "GROUP": group}
        )
        self._library.decoder_step.restype = None
        layers = (_Layer * len(decoder.layers))(
            *(self._layer(number, layer, cache, kv_heads) for number, layer in enumerate(decoder.layers))
        )
        columns = cache.columns
        cosines, sines = decoder.rotary_emb(torch.zeros(1), torch.arange(columns)[None])
        self._model = _Model(
            layers=layers,
            head=self._matrix(model.lm_head.weight),
            embedding=self._hold(decoder.embed_tokens.weight),
            final_norm=self._hold(decoder.norm.weight.float()),
            cosines=self._hold(cosines[0].float()),
            sines=self._hold(sines[0].float()),
            layer_count=len(layers),
            hidden=config.hidden_size,
            vocabulary=model.lm_head.weight.shape[0],
            kv_heads=kv_heads,
            context=columns,
            epsilon=config.rms_norm_eps,
            scale=attention.scaling,
        )
        self._model.widest = self._widest
        self._threads = torch.get_num_threads()
        self._room: dict[str, Tensor] = {}
        self._room_for = 0

    @property
    def bytes(self) -> int:
        """What weights and cache take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._held)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], in float32, and write the new keys and values to the cache."""
        tokens, sampled = batch.token_ids.numel(), batch.sampled.numel()
        self._make_room(tokens)
        logits = torch.empty(sampled, self._model.vocabulary)
        step = _Step(
            token_ids=batch.token_ids.data_ptr(),
            positions=batch.positions.data_ptr(),
            slots=batch.slots.data_ptr(),
            sampled=batch.sampled.data_ptr(),
            token_count=tokens,
            sampled_count=sampled,
            threads=self._threads,
            logits=logits.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in self._room.items()},
        )
        self._library.decoder_step(ctypes.byref(self._model), ctypes.byref(step))
        return logits

    def _make_room(self, tokens: int) -> None:
        """Room for a step's intermediate values; it grows with the largest step so far and is then used again."""
        if tokens <= self._room_for:
            return
        rows = self._room_for = _filled_up(tokens, BLOCK)
        layer = self._model.layers[0]
        self._room = {
            "neighbours": torch.zeros(rows, dtype=torch.int64),
            "hidden": torch.zeros(rows, self._model.hidden),
            "qkv": torch.zeros(rows, layer.qkv.panel_count * PANEL),
            "normed": torch.zeros(rows, layer.qkv.inputs, dtype=self._dtype),
            "attended": torch.zeros(rows, layer.output.inputs, dtype=self._dtype),
            "activated": torch.zeros(rows, layer.down.inputs, dtype=self._dtype),
            "scores": torch.zeros(self._threads, self._model.context, HALF_PANEL),
            "widened": torch.zeros(self._threads, self._widest, dtype=self._dtype),
        }

    def _layer(self, number: int, layer: Any, cache: KVCache, kv_heads: int) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
        gate, up = (_in_rows_of(weight, HALF_PANEL) for weight in (mlp.gate_proj.weight, mlp.up_proj.weight))
        keys, values = cache.layer(number, kv_heads, attention.head_dim, self._dtype, torch.device("cpu"))
        norms = {
            name: self._hold(getattr(attention, module).weight.float()) if hasattr(attention, module) else None
            for name, module in (("query_norm", "q_norm"), ("key_norm", "k_norm"))
        }
        return _Layer(
            qkv=self._matrix(torch.cat([part.weight for part in parts]), bias),
            output=self._matrix(attention.o_proj.weight),
            gate_up=self._matrix(torch.stack([gate, up], dim=1).flatten(0, 2)),
            down=self._matrix(mlp.down_proj.weight),
            input_norm=self._hold(layer.input_layernorm.weight.float()),
            mlp_norm=self._hold(layer.post_attention_layernorm.weight.float()),
            keys=self._hold(keys),
            values=self._hold(values),
            **norms,
        )

    def _matrix(self, weight: Tensor, bias: Tensor | None = None) -> _Matrix:
        """Lay a weight [outputs, inputs] out as decoder.cpp reads it."""
        outputs, inputs = (_filled_up(size, to) for size, to in zip(weight.shape, (PANEL, BLOCK), strict=True))
        if bias is not None:
            bias = F.pad(bias.detach().float(), (0, outputs - len(bias)))
        matrix = _Matrix(bias=None if bias is None else self._hold(bias), inputs=inputs, panel_count=outputs // PANEL)
        if self._is_quantized:
            numbers, scales = to_int8(weight)
            matrix.rounded = self._hold(self._panels(numbers, outputs, inputs))
            matrix.scales = self._hold(F.pad(scales, (0, outputs - len(scales))))
            self._widest = max(self._widest, inputs * PANEL)
        else:
            matrix.panels = self._hold(self._panels(weight.detach(), outputs, inputs))
        return matrix

    def _panels(self, weight: Tensor, outputs: int, inputs: int) -> Tensor:
        filled = F.pad(weight, (0, inputs - weight.shape[1], 0, outputs - weight.shape[0]))
        if self._dtype == torch.bfloat16:
            # Two inputs' weights stay side by side: seen as one number, they move together.
            filled = filled.view(torch.int16 if filled.dtype == torch.int8 else torch.int32)
        return filled.view(outputs // PANEL, PANEL, -1).transpose(1, 2)

    def _hold(self, tensor: Tensor) -> int:
        """Keep a tensor where it is for as long as this object lives, and return its address."""
        held = tensor.detach().contiguous()
        self._held.append(held)
        return int(held.data_ptr())


def _filled_up(size: int, to: int) -> int:
    return -(-size // to) * to


def _in_rows_of(weight: Tensor, size: int) -> Tensor:
    """[outputs, inputs] as [outputs / size, size, inputs], filled up with zeros."""
    outputs, inputs = weight.shape
    return F.pad(weight, (0, 0, 0, _filled_up(outputs, size) - outputs)).view(-1, size, inputs)


def _check(model: PreTrainedModel, context: int) -> None:
    """Raise NotNative for what decoder.cpp does not compute."""
    kind, config = type(model).__name__, model.config
    if kind not in MODELS:
        raise NotNative(f"{kind} is none of {', '.join(MODELS)}")
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        raise NotNative(f"{model.dtype} on {model.device}: it computes float32 and bfloat16, on a CPU")
    decoder: Any = model.model
    attention, mlp = decoder.layers[0].self_attn, decoder.layers[0].mlp
    if attention.head_dim % HALF_PANEL:
        raise NotNative(f"heads of {attention.head_dim} numbers; expected a multiple of {HALF_PANEL}")
    if not isinstance(mlp.act_fn, nn.SiLU) and getattr(config, "hidden_act", None) != "silu":
        raise NotNative(f"activation {config.hidden_act}; expected silu")
    if any(part.bias is not None for part in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)):
        raise NotNative("biases beside those of queries, keys and values")
    if decoder.rotary_emb.rope_type not in FIXED_ROTATIONS:
        raise NotNative(f"rotary embedding {decoder.rotary_emb.rope_type}; expected {', '.join(FIXED_ROTATIONS)}")
    of_model = getattr(config, "sliding_window", None)
    for layer in decoder.layers:
        window = getattr(layer.self_attn, "sliding_window", of_model)
        if window is not None and window < context:
            raise NotNative(f"layers that look back {window} tokens only; expected the context's {context}")
