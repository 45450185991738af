"""Compiles a model's layers, so that a step's hundreds of small operators become a few dozen kernels.

One layer is compiled, not the model: all layers have the same code, and their weights are inputs to it, so one graph
serves every layer. The number of tokens is an unknown of the graph, and attention and packed matrix products are
operators that the compiler does not look into. So two graphs of a layer serve every mix of prompts and streams, one for
a single token and one for more, and both are made before the server is ready. Inductor keeps them on disk for the next
start.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch import fx, nn
from torch._inductor.custom_graph_pass import CustomGraphPass
from transformers import PreTrainedModel


class MergeEqualProducts(CustomGraphPass):
    """Compute a packed product once if several layers use parts of it."""

    def __call__(self, graph: fx.Graph) -> None:
        seen: dict[tuple[Any, ...], fx.Node] = {}
        for node in list(graph.nodes):
            if node.target is torch.ops.engine.packed_linear.default:
                first = seen.setdefault(node.args, node)
                if first is not node:
                    node.replace_all_uses_with(first)
                    graph.erase_node(node)

    def uuid(self) -> str:
        return "merge equal products, 1"


def compile_layers(model: PreTrainedModel) -> None:
    """Have a model's layers compiled at their next calls. Call it on the tensor thread, whose settings inductor reads.

    Raises:
        ValueError: the model does not say which of its modules are its layers.
    """
    layers = _layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} does not say which of its modules are its layers")
    inductor_config.post_grad_custom_pre_pass = MergeEqualProducts()
    for layer in layers:
        layer.compile(dynamic=True)


def uncompile_layers(model: PreTrainedModel) -> None:
    for layer in _layers(model):
        layer._compiled_call_impl = None


def as_compiled() -> AbstractContextManager[Any]:
    """Within this, a call that no graph fits runs uncompiled, so that no request waits for a compiler."""
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("eager_on_recompile")
    return stance


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that transformers names as the units that must stay together: the decoder layers."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]
