"""Triton's interpreter, which runs kernels in numpy, without a GPU, if TRITON_INTERPRET is 1.

Products of bfloat16 are wrong there.
"""

import functools
import importlib
import inspect
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
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


def run_programs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the programs of a kernel take turns: after each atomic operation the next one goes on.

    Otherwise the interpreter runs one after the other, and at a barrier the first would wait for the second for ever.
    """
    if not IS_INTERPRETED:
        return
    interpreter = importlib.import_module("triton.runtime.interpreter")
    builder = interpreter.interpreter_builder
    zeros = importlib.import_module("triton.language").zeros
    turns = _Turns()
    atomic = builder.create_atomic_rmw

    def next_turn(*args: Any) -> Any:
        found = atomic(*args)
        place = builder.grid_idx
        turns.pass_on()
        builder.grid_idx = place
        return found

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        names = inspect.getfullargspec(executor.fn).args
        given = inspect.getcallargs(executor.fn, *args, **{name: kwargs[name] for name in kwargs if name in names})
        scopes = [interpreter._patch_lang(function) for function in (executor.fn, zeros.fn)]
        try:
            converted = {
                name: value if name in executor.constexprs else interpreter._implicit_cvt(value)
                for name, value in given.items()
            }
            builder.set_grid_dim(*executor.grid, *[1] * (3 - len(executor.grid)))
            turns.run([functools.partial(run, place, converted, executor.fn) for place in np.ndindex(builder.grid_dim)])
        finally:
            for scope in reversed(scopes):
                scope.restore()

    def run(place: tuple[int, ...], args: dict[str, Any], kernel: Callable[..., None]) -> None:
        builder.set_grid_idx(*place)
        kernel(**args)

    monkeypatch.setattr(builder, "create_atomic_rmw", next_turn)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    # A launch has patched the language for all functions that the kernel calls, its own and those of Triton.
    monkeypatch.setattr(
        interpreter.InterpretedFunction, "__call__", lambda called, *args, **kwargs: called.rewrite()(*args, **kwargs)
    )


class _Turns:
    """Functions on threads of which one runs at a time, until it passes the turn on or ends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[int] = []  # the first one's turn it is
        self._number = threading.local()

    def run(self, functions: Sequence[Callable[[], None]]) -> None:
        self._waiting = list(range(len(functions)))
        with ThreadPoolExecutor(len(functions)) as threads:
            ended = [threads.submit(self._run, number, function) for number, function in enumerate(functions)]
        for each in ended:
            each.result()

    def pass_on(self) -> None:
        with self._changed:
            self._waiting.append(self._waiting.pop(0))
            self._changed.notify_all()
            self._await_turn()

    def _run(self, number: int, function: Callable[[], None]) -> None:
        self._number.own = number
        try:
            with self._changed:
                self._await_turn()
            function()
        finally:
            with self._changed:
                self._waiting.pop(0)
                self._changed.notify_all()

    def _await_turn(self) -> None:
        self._changed.wait_for(lambda: self._waiting[0] == self._number.own)
