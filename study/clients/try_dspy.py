"""DSPy, through each of the APIs that it speaks."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # DSPy asks for completions through LiteLLM

import dspy

from study.clients.checks import MODEL, QUESTION, V1, check, expect


def ask(model_type: str) -> str:
    lm = dspy.LM(
        f"openai/{MODEL}",
        model_type=model_type,
        api_base=V1,
        api_key="any",
        cache=False,
        num_retries=0,
        max_tokens=60,
        temperature=0,
    )
    (answer,) = lm(QUESTION)
    text = answer["text"] if isinstance(answer, dict) else answer
    expect(bool(text), "a text")
    return str(text)


check("LM: chat", lambda: ask("chat"))
check("LM: text", lambda: ask("text"))
check("LM: responses", lambda: ask("responses"))
