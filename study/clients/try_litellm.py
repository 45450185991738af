"""LiteLLM, as an OpenAI server and as a vLLM one."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from study.clients.checks import MODEL, QUESTION, V1, check, expect

messages = [{"role": "user", "content": QUESTION}]


def chat(provider: str) -> str:
    answer = litellm.completion(
        model=f"{provider}/{MODEL}", messages=messages, api_base=V1, api_key="any", temperature=0, num_retries=0
    )
    expect(bool(answer.choices[0].message.content), "a text")
    return str(answer.choices[0].message.content)


def stream() -> str:
    chunks = litellm.completion(
        model=f"hosted_vllm/{MODEL}", messages=messages, api_base=V1, api_key="any", temperature=0, stream=True, top_k=5
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    expect(bool("".join(pieces)), "a text")
    return f"{len(pieces)} pieces"


def overflow() -> str:
    long = [{"role": "user", "content": "word " * 20_000}]
    try:
        litellm.completion(model=f"openai/{MODEL}", messages=long, api_base=V1, api_key="any", num_retries=0)
    except litellm.ContextWindowExceededError as error:
        return type(error).__name__
    raise AssertionError("expected ContextWindowExceededError")


check("openai/", lambda: chat("openai"))
check("hosted_vllm/", lambda: chat("hosted_vllm"))
check("stream with top_k", stream)
check("too long a prompt is ContextWindowExceededError", overflow)
