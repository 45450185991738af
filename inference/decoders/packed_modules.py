"""Replaces the linear layers of a transformers model, of whatever architecture, by packed ones (see `linear`).

Layers that read the same input (queries, keys and values; an MLP's gate and up) are packed as one: few large matrix
products cost less than many small ones. A layer that computes more than a product stays as it is.
"""

import itertools
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inference.decoders.linear import Linear, is_packable

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""The names, in models, of a module's layers that read the same input."""


class PackedLinear:
    """The product with one packed matrix [outputs, inputs], computed once for all layers that have the same input."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs = len(weight)
        self.number = next(_numbers)
        _packed_linears[self.number] = self
        self.product = Linear(weight, bias)
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def __call__(self, input: Tensor) -> Tensor:
        if self._output is None or input is not self._input:
            self._output = self.product(input)
            self._input = input
        return self._output


_numbers = itertools.count()
_packed_linears: WeakValueDictionary[int, PackedLinear] = WeakValueDictionary()


def _packed_linear(input: Tensor, number: Tensor, outputs: int) -> Tensor:
    """The product as an operator in compiled code, which can hold a packed matrix's number, but not the matrix."""
    return _packed_linears[int(number)].product(input)


def _packed_linear_shape(input: Tensor, number: Tensor, outputs: int) -> Tensor:
    return input.new_empty((*input.shape[:-1], outputs))


_library = torch.library.Library("engine", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("packed_linear(Tensor input, Tensor number, int outputs) -> Tensor")  # type: ignore[no-untyped-call]
_library.impl("packed_linear", _packed_linear, "CPU")  # type: ignore[no-untyped-call]
_library.impl("packed_linear", _packed_linear_shape, "Meta")  # type: ignore[no-untyped-call]


class Outputs(nn.Module):
    """A linear layer of the model: the outputs of a packed one from `first` up to, but not including, `last`."""

    def __init__(self, packed: PackedLinear, number: Tensor, first: int, last: int) -> None:
        super().__init__()
        self.register_buffer("_number", number, persistent=False)
        self._packed = packed
        self._all_outputs = packed.outputs
        self._first, self._last = first, last
        self._plain_weight: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The weight [outputs, inputs], for a model that reads it instead of calling the layer.

        It is kept after the first read. Few models read weights, and only those of small layers, such as routers.
        """
        if self._plain_weight is None:
            self._plain_weight = self._packed.product.plain_weight()[self._first : self._last].clone()
        return self._plain_weight

    @property
    def bias(self) -> Tensor | None:
        bias = self._packed.product.bias
        return None if bias is None else bias[self._first : self._last]

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            output: Tensor = torch.ops.engine.packed_linear(input, self._number, self._all_outputs)
        else:
            output = self._packed(input)
        return output[..., self._first : self._last]


def pack_linears(model: nn.Module) -> None:
    """Replace every linear layer of a model on a CPU in half precision; leave any other model as it is."""
    for parent in list(model.modules()):
        for names in _groups(parent):
            layers = [getattr(parent, name) for name in names]
            if all(is_packable(layer.weight) for layer in layers):
                _replace(parent, names, layers)


def _groups(parent: nn.Module) -> Iterator[Sequence[str]]:
    """The names of a module's linear layers, those together that read the same input."""
    names = [name for name, layer in parent.named_children() if _is_plain(layer)]
    for siblings in SIBLINGS:
        if set(siblings) <= set(names):
            yield siblings
            names = [name for name in names if name not in siblings]
    yield from ([name] for name in names)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer computes the product with its weight and nothing else.

    A subclass with a forward of its own may scale, round or clip, and so may a hook or a forward set on the object.
    """
    return (
        type(layer).forward in (nn.Linear.forward, Conv1D.forward)
        and "forward" not in vars(layer)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
    )


def _replace(parent: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]) -> None:
    weights, biases = zip(*(_weight_and_bias(layer) for layer in layers), strict=True)
    has_bias = any(bias is not None for bias in biases)
    filled = [
        weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in zip(weights, biases, strict=True)
    ]
    packed = PackedLinear(torch.cat(weights), torch.cat(filled) if has_bias else None)
    number = torch.tensor(packed.number)
    first = 0
    for name, weight in zip(names, weights, strict=True):
        setattr(parent, name, Outputs(packed, number, first, first + len(weight)))
        first += len(weight)


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight [outputs, inputs] and bias [outputs] of a linear layer; Conv1D keeps its weight the other way."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return (weight.t() if isinstance(layer, Conv1D) else weight).detach(), None if bias is None else bias.detach()
