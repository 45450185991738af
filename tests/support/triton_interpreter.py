"""Triton's interpreter, which runs kernels in numpy, without a GPU, if TRITON_INTERPRET is 1.

Products of bfloat16 are wrong there.
"""

import importlib
import os
from typing import Any

import pytest
import torch

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if IS_INTERPRETED else "cuda")
DTYPES = [torch.float32] if IS_INTERPRETED else [torch.float32, torch.bfloat16, torch.float16]


def mend_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the language after each call of a function within a kernel.

    Triton 3.6 to 3.9 wrap it once more for each, without end: they slow down, and stop with a RecursionError.
    """
    if not IS_INTERPRETED:
        return
    interpreter = importlib.import_module("triton.runtime.interpreter")

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        scope = interpreter._patch_lang(function.fn)
        try:
            return function.rewrite()(*args, **kwargs)
        finally:
            scope.restore()

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
