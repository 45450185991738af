"""Packs a model's weights for decoder.cpp, and calls it once per step.

Invariant: everything that a pointer in a structure points to is held by the `NativeDecoder` that made it, or, for a
step's own tensors, by the call.
"""

import ctypes
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from inference.cache.batch import Batch
from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import TryOut
from inference.decoders.native.build import build
from inference.weights.llama import Layer, Llama, Sizes

SOURCE = Path(__file__).with_name("decoder.cpp")
HALF_PANEL, PANEL, BLOCK = 16, 32, 32
"""Outputs of which weights lie side by side, outputs of a panel, and what inputs and rows are filled up to."""


class NotNative(Exception):
    """The model is not one that decoder.cpp can compute; the message says why."""


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "scales", "bias")),
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
        *((name, ctypes.c_int64) for name in ("layer_count", "hidden", "vocabulary", "kv_heads", "context")),
        ("epsilon", ctypes.c_double),
        ("scale", ctypes.c_double),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "slots", "sampled")),
        *((name, ctypes.c_int64) for name in ("token_count", "sampled_count", "threads", "wide_panel_size")),
        *((name, ctypes.c_void_p) for name in ("neighbours", "hidden", "qkv", "normed", "attended", "activated")),
        *((name, ctypes.c_void_p) for name in ("scores", "wide_panel", "logits")),
    )


def build_for(model: PreTrainedModel, is_quantized: bool = False) -> ctypes.CDLL:
    """Compile decoder.cpp for a model that has passed `llama.check`; its weights are left alone.

    Quantized, it reads matrices that are stored as eight-bit integers.

    Raises:
        NotNative: its sizes, precision or device are none that decoder.cpp computes.
        CannotBuild: there is no compiler that can.
    """
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        raise NotNative(f"{model.dtype} on {model.device}: it computes float32 and bfloat16, on a CPU")
    decoder: Any = model.model
    head_dim = decoder.layers[0].self_attn.head_dim
    if head_dim % HALF_PANEL:
        raise NotNative(f"heads of {head_dim} numbers; expected a multiple of {HALF_PANEL}")
    config = model.config
    group = config.num_attention_heads // config.num_key_value_heads
    precision = {"BF16": int(model.dtype == torch.bfloat16), "INT8": int(is_quantized)}
    library = build(SOURCE, precision | {"HEAD_DIM": head_dim, "GROUP": group})
    library.decoder_step.restype = None
    return library


class NativeDecoder:
    """A Llama-type model on a CPU, in float32 or bfloat16, its matrices in eight bits if it is quantized.

    `library` must have been built for the same.
    """

    name = "C++, for models of the Llama type"

    def __init__(self, library: ctypes.CDLL, llama: Llama, cache: KVCache, is_quantized: bool = False) -> None:
        self._held: list[Tensor] = []
        self._dtype = llama.dtype
        self._is_quantized = is_quantized
        self._library = library
        layers = (_Layer * len(llama.layers))(
            *(self._layer(number, llama.layers.pop(0), cache, llama.sizes) for number in range(len(llama.layers)))
        )
        self._model = _Model(
            layers=layers,
            head=self._matrix(llama.head),
            embedding=self._hold(llama.embedding.clone()),  # see `_hold_floats`
            final_norm=self._hold_floats(llama.final_norm),
            cosines=self._hold(llama.cosines),
            sines=self._hold(llama.sines),
            layer_count=len(layers),
            hidden=llama.embedding.shape[1],
            vocabulary=len(llama.head),
            kv_heads=llama.sizes.kv_heads,
            context=cache.row_length,
            epsilon=llama.sizes.epsilon,
            scale=llama.sizes.scale,
        )
        self._threads = torch.get_num_threads()
        self._room: dict[str, Tensor] = {}
        self._room_for = 0

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
            wide_panel_size=self._room["wide_panel"].shape[1],
            logits=logits.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in self._room.items()},
        )
        self._library.decoder_step(ctypes.byref(self._model), ctypes.byref(step))
        return logits

    def compile(self, try_out: TryOut) -> None:
        """It is compiled."""

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
            "wide_panel": torch.zeros(self._threads, self._most_inputs * PANEL, dtype=self._dtype),
        }

    @property
    def _most_inputs(self) -> int:
        """Of the matrices that have to be widened."""
        layer = self._model.layers[0]
        return max(layer.qkv.inputs, layer.output.inputs, layer.down.inputs) if self._is_quantized else 0

    def _layer(self, number: int, layer: Layer, cache: KVCache, sizes: Sizes) -> _Layer:
        gate, up = (_in_rows_of(weight, HALF_PANEL) for weight in (layer.gate, layer.up))
        keys, values = cache.layer(number, sizes.kv_heads, sizes.head_dim, self._dtype, torch.device("cpu"))
        return _Layer(
            qkv=self._matrix(layer.qkv, layer.qkv_bias),
            output=self._matrix(layer.output),
            gate_up=self._matrix(torch.stack([gate, up], dim=1).flatten(0, 2)),
            down=self._matrix(layer.down),
            input_norm=self._hold_floats(layer.input_norm),
            mlp_norm=self._hold_floats(layer.mlp_norm),
            query_norm=None if layer.query_norm is None else self._hold_floats(layer.query_norm),
            key_norm=None if layer.key_norm is None else self._hold_floats(layer.key_norm),
            # The memory is the cache's, as it lies; in which order it is filled is this decoder's own business.
            keys=self._hold(keys.transpose(1, 2)),
            values=self._hold(values.transpose(1, 2)),
        )

    def _matrix(self, weight: Tensor, bias: Tensor | None = None) -> _Matrix:
        """Lay a weight [outputs, inputs] out as decoder.cpp reads it."""
        outputs, inputs = (_filled_up(size, to) for size, to in zip(weight.shape, (PANEL, BLOCK), strict=True))
        filled = F.pad(weight, (0, inputs - weight.shape[1], 0, outputs - weight.shape[0]))
        scales: Tensor | None = None
        if self._is_quantized:
            filled, scales = quantized(filled)
        if self._dtype == torch.bfloat16:
            # Two inputs' weights stay side by side: as one number, they move together.
            filled = filled.view(torch.int16 if self._is_quantized else torch.int32)
        panels = filled.view(outputs // PANEL, PANEL, -1).transpose(1, 2)
        return _Matrix(
            panels=self._hold(panels),
            scales=None if scales is None else self._hold(scales),
            bias=None if bias is None else self._hold(F.pad(bias.float(), (0, outputs - len(bias)))),
            inputs=inputs,
            panel_count=outputs // PANEL,
        )

    def _hold_floats(self, weight: Tensor) -> int:
        """A copy in any case: the model's own would keep the whole file mapped that it was read from."""
        return self._hold(weight.to(torch.float32, copy=True))

    def _hold(self, tensor: Tensor) -> int:
        """Keep a tensor where it is for as long as this object lives, and return its address."""
        held = tensor.detach().contiguous()
        self._held.append(held)
        return int(held.data_ptr())


def _filled_up(size: int, to: int) -> int:
    return -(-size // to) * to


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [outputs, inputs] as whole numbers of eight bits, and what each output's are to be multiplied with.

    The largest weight of an output becomes 127, or -127, and the others are rounded to the nearest whole number.
    """
    weight = weight.float()
    scales = weight.abs().amax(1) / 127
    scales[scales == 0] = 1
    return (weight / scales[:, None]).round().to(torch.int8), scales


def _in_rows_of(weight: Tensor, size: int) -> Tensor:
    """[outputs, inputs] as [outputs / size, size, inputs], filled up with zeros."""
    outputs, inputs = weight.shape
    return F.pad(weight, (0, 0, 0, _filled_up(outputs, size) - outputs)).view(-1, size, inputs)
