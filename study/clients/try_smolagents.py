"""smolagents."""

from smolagents import ActionStep, OpenAIServerModel, ToolCallingAgent, tool

from study.clients.checks import MODEL, QUESTION, V1, check, expect

model = OpenAIServerModel(MODEL, api_base=V1, api_key="any", max_tokens=100, temperature=0)
messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]


@tool
def move(street: str) -> str:
    """Moves.

    Args:
        street: Where to.
    """
    return street


def generate() -> str:
    answer = model.generate(messages)
    expect(bool(answer.content) and answer.token_usage.total_tokens > 0, "a text and usage")
    return str(answer.content)


def stream() -> str:
    pieces = [delta.content or "" for delta in model.generate_stream(messages)]
    expect("".join(pieces) == model.generate(messages).content, "the whole answer's text")
    return f"{len(pieces)} pieces"


def agent() -> str:
    runner = ToolCallingAgent(tools=[move], model=model, max_steps=1, verbosity_level=0)
    answer = runner.run(QUESTION)
    step, *_ = (entry for entry in runner.memory.steps if isinstance(entry, ActionStep))
    expect(bool(step.tool_calls), "a call of a tool")
    return str(answer)


check("generate", generate)
check("stream equals whole", stream)
check("ToolCallingAgent", agent)
