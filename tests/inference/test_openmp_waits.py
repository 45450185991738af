"""Threads that wait for one another sleep soon, so a busy machine slows a step down as little as possible."""

import os
import subprocess
import sys

import pytest

import inference

SHOW = "import os, sys, inference; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


def setting_with(**variables: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    }
    command = [sys.executable, "-c", SHOW]
    return subprocess.run(
        command, env=environment | variables, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_openmp_is_told_before_torch_is_imported() -> None:
    assert setting_with() == f"{inference.SPINS} False"


@pytest.mark.parametrize(
    ("name", "value", "shown"), [("GOMP_SPINCOUNT", "7", "7 False"), ("OMP_WAIT_POLICY", "active", "None False")]
)
def test_what_the_user_has_set_stays(name: str, value: str, shown: str) -> None:
    assert setting_with(**{name: value}) == shown
