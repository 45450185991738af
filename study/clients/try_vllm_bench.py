"""The request functions of `vllm bench serve`: how its benchmark sends requests, and how it reads the answers."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

import aiohttp

from study.clients.checks import MODEL, QUESTION, V1, check, expect

SOURCE = Path(sys.prefix, "vllm_bench", "endpoint_request_func.py")
"""Taken out of vLLM's wheel by `study.clients.extract_vllm_bench`."""
TOKENS = 20


def load() -> Any:
    spec = importlib.util.spec_from_file_location("endpoint_request_func", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


async def ask(backend: str, path: str) -> str:
    bench = load()
    async with aiohttp.ClientSession() as session:
        request = bench.RequestFuncInput(
            prompt=QUESTION, api_url=f"{V1}/{path}", prompt_len=8, output_len=TOKENS, model=MODEL, ignore_eos=True
        )
        output = await bench.ASYNC_REQUEST_FUNCS[backend](request, session)
    expect(output.success, f"a success, got {output.error}")
    expect(output.output_tokens == TOKENS, f"{TOKENS} tokens, got {output.output_tokens}")
    expect(output.prompt_len > 0 and bool(output.generated_text), "a prompt's length and a text")
    return f"{output.output_tokens} tokens, {len(output.itl)} intervals"


check("openai: completions", lambda: asyncio.run(ask("openai", "completions")))
check("openai-chat: chat completions", lambda: asyncio.run(ask("openai-chat", "chat/completions")))
check("openai-responses: responses", lambda: asyncio.run(ask("openai-responses", "responses")))
