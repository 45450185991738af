"""Packed linear layers compute what plain ones do; float32 models keep theirs; neighbouring slots attend together."""

import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from inference.cache.batch import Run
from inference.cache.layout import _runs
from inference.decoders.packed_modules import Outputs, pack_linears
from inference.decoders.torch_decoder import exact_near_largest
from inference.tensor_thread import on_tensor_thread
from tests.support.tiny_models import random_model

HIDDEN, KEYS, MLP = 32, 16, 48
has_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU does not compute in bfloat16"
)


def test_logits_that_bfloat16_makes_equal_are_told_apart() -> None:
    rows = (torch.eye(3, 8) * 20).bfloat16()
    normed = torch.tensor([[1.0, 1.0039, 0.5, 0, 0, 0, 0, 0], [float("nan")] * 8, [0.0] * 8], dtype=torch.bfloat16)
    normed[0, 3], rows[1, 3] = 0.03, 1.0  # together they are less than bfloat16 has next to 20
    logits = normed @ rows.T
    assert logits[0, 0] == logits[0, 1]
    exact = exact_near_largest(logits, normed, rows)
    torch.testing.assert_close(exact[0, :2], (normed.float() @ rows.float().T)[0, :2])
    assert exact.argmax(-1)[0] == 1
    assert exact[0, 2] == logits[0, 2], "the others are as they were"
    assert exact[1].isnan().all()
    alone = exact_near_largest(logits[:1], normed[:1], rows)
    assert torch.equal(alone[0], exact[0])


class Layers(nn.Module):
    """Linear layers as models have them: siblings, a lone one, one with its weight the other way."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, KEYS),
            nn.Linear(HIDDEN, KEYS),
        )
        self.gate_proj, self.up_proj = nn.Linear(HIDDEN, MLP, bias=False), nn.Linear(HIDDEN, MLP, bias=False)
        self.other = nn.Linear(HIDDEN, 7, bias=False)
        self.turned = Conv1D(MLP, HIDDEN)  # type: ignore[no-untyped-call]
        nn.init.normal_(self.turned.bias)


def outputs_of(layers: nn.Module, input: torch.Tensor) -> list[torch.Tensor]:
    return [layer(input) for layer in layers.children()]


@has_bfloat16
@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_packed_layers_compute_what_plain_ones_do(tokens: int) -> None:
    torch.manual_seed(0)
    layers = Layers().bfloat16()
    inputs = [torch.randn(1, tokens, HIDDEN).bfloat16() for _ in range(3)]
    with torch.inference_mode():
        expected = [outputs_of(layers, input) for input in inputs]
        pack_linears(layers)
        assert all(isinstance(layer, Outputs) for layer in layers.children())
        got = [outputs_of(layers, input) for input in inputs]  # another input each time: none may be mistaken for it
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


@has_bfloat16
def test_siblings_with_different_inputs_are_told_apart() -> None:
    layers = Layers().bfloat16()
    one, other = (torch.randn(1, 4, HIDDEN).bfloat16() for _ in range(2))
    with torch.inference_mode():
        expected = [layers.q_proj(one), layers.k_proj(other), layers.v_proj(one)]
        pack_linears(layers)
        got = [layers.q_proj(one), layers.k_proj(other), layers.v_proj(one)]
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


class Clipped(nn.Linear):
    """A linear layer that does more than its product."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).clamp(-0.1, 0.1)


@has_bfloat16
def test_a_layer_with_a_forward_of_its_own_is_left_alone() -> None:
    layers = nn.Sequential(Clipped(HIDDEN, MLP), nn.Linear(MLP, HIDDEN), nn.Linear(HIDDEN, HIDDEN)).bfloat16()
    layers[1].register_forward_hook(lambda layer, inputs, output: output.clamp(-0.1, 0.1))
    input = torch.randn(1, 3, HIDDEN).bfloat16()
    with torch.inference_mode():
        expected = layers(input)
        pack_linears(layers)
        got = layers(input)
    assert [type(layer) for layer in layers] == [Clipped, nn.Linear, Outputs]
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_a_model_in_float32_keeps_its_linear_layers() -> None:
    model = random_model("llama")
    pack_linears(model)
    assert not any(isinstance(module, Outputs) for module in model.modules())


@has_bfloat16
def test_a_whole_model_in_bfloat16_has_no_plain_linear_layer_left() -> None:
    for architecture in ("llama", "gpt2", "gemma3"):
        model = random_model(architecture)
        nn.Module.bfloat16(model)
        pack_linears(model)
        assert not any(isinstance(module, nn.Linear | Conv1D) for module in model.modules())


def test_slots_that_are_neighbours_make_one_run_with_the_length_of_its_longest() -> None:
    assert _runs([], [], 4096) == []
    assert _runs([3], [0], 4096) == [Run(3, 0, 1, 16)]
    assert _runs([0, 1, 2, 5, 7, 8], [10, 200, 63, 64, 0, 99], 4096) == [
        Run(0, 0, 3, 208),
        Run(5, 3, 4, 80),
        Run(7, 4, 6, 112),
    ]
    assert _runs([0], [99], 100) == [Run(0, 0, 1, 100)], "never more than the context"


def test_tensors_are_touched_on_one_thread_whichever_asks() -> None:
    threads: list[threading.Thread] = []

    def ask() -> None:
        threads.append(on_tensor_thread(threading.current_thread))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0] not in askers


def test_an_error_on_the_tensor_thread_reaches_the_thread_that_asked() -> None:
    def fail() -> None:
        raise ValueError("as asked")

    with pytest.raises(ValueError, match="as asked"):
        on_tensor_thread(fail)
    assert on_tensor_thread(lambda: on_tensor_thread(lambda: 1)) == 1, "it may ask itself, and lives on"


LARGE_LAYERS = """
import resource, torch
from inference.tensor_thread import on_tensor_thread

def run_layers(count):
    for _ in range(count):
        first = torch.ones(1 << 21)
        second = first + 1
        third = first * second
        del first, second, third

def page_faults():
    run_layers(4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run_layers(12)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def megabyte():
    return torch.ones(1 << 18)

kept = [on_tensor_thread(megabyte) for _ in range(8)]
for _ in range(12):
    kept.append(on_tensor_thread(megabyte))  # so that the layers lie elsewhere
    print(on_tensor_thread(page_faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep free memory by rules of their own")
def test_what_a_layer_frees_is_not_given_back_to_the_system() -> None:
    process = subprocess.run(
        [sys.executable, "-c", LARGE_LAYERS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    page_faults = [int(line) for line in process.stdout.splitlines()]
    assert len(page_faults) == 12
    assert max(page_faults) < 8000, "each of 36 tensors has 2,000 pages, and the first three may need more memory"
