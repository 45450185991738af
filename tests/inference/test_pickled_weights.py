"""Weights in torch's own format are held to what those in safetensors are: tensors by name, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interface.errors import LoadError
from tests.support.checkpoint_folders import load, save
from tests.support.tiny_models import random_model

Weights = dict[str, Tensor]
UP = "model.layers.1.mlp.up_proj.weight"


class Program:
    """An object whose pickle runs a program when it is read."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """A folder without weights, and the weights."""
    folder = save(tmp_path_factory.mktemp("pickled"), random_model("llama"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return folder, tensors


def refusal(folder: Path, content: object, **settings: Any) -> str:
    path = folder / "pytorch_model.bin"
    torch.save(content, path, **settings)
    with pytest.raises(LoadError) as refused:
        load(folder)
    name, _, reason = str(refused.value).partition(": ")
    assert name == str(path)
    return reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: list(weights.values()), "expected tensors by their names, got a list"),
        (lambda weights: {"state_dict": weights}, "expected tensors by their names, got a dict under 'state_dict'"),
        (lambda weights: weights | {"epoch": 3}, "expected tensors by their names, got a int under 'epoch'"),
        (lambda weights: torch.nn.Linear(2, 2), "expected a file of torch.save with tensors and nothing else; it is"),
        (lambda weights: weights | {UP: weights[UP].to(torch.int8)}, f"tensor {UP} is of type I8: quantized, but"),
        (lambda weights: weights | {UP: weights[UP] / 0}, f"tensor {UP} has a weight that is NaN or infinite"),
    ],
    ids=["a list", "one dictionary in another", "a number", "a module", "eight bits", "not finite"],
)
def test_what_is_no_tensor_or_no_number_is_refused_by_its_name(
    change: Callable[[Weights], object], reason: str, weights: tuple[Path, Weights]
) -> None:
    folder, tensors = weights
    assert refusal(folder, change(tensors)).startswith(reason)


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_program_in_a_pickle_is_not_run(is_archive: bool, weights: tuple[Path, Weights], tmp_path: Path) -> None:
    folder, tensors = weights
    content = tensors | {"program": Program(f"touch {tmp_path / 'run'}")}
    reason = refusal(folder, content, _use_new_zipfile_serialization=is_archive)
    assert reason.startswith("expected a file of torch.save with tensors and nothing else")
    assert not (tmp_path / "run").exists()


def test_a_file_without_tensors_is_no_model(weights: tuple[Path, Weights]) -> None:
    folder, _ = weights
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(LoadError, match=f"^{folder}: its files hold no tensors; expected the weights of a model"):
        load(folder)
