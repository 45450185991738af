"""openai-agents, which speaks the Responses API."""

from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

from study.clients.checks import MODEL, QUESTION, V1, check, expect

set_tracing_disabled(True)
model = OpenAIResponsesModel(model=MODEL, openai_client=AsyncOpenAI(base_url=V1, api_key="any"))


def run() -> str:
    result = Runner.run_sync(Agent(name="Helper", instructions="Be brief.", model=model), QUESTION)
    expect(bool(result.final_output), "a text")
    return str(result.final_output)


def second_turn() -> str:
    agent = Agent(name="Helper", model=model)
    first = Runner.run_sync(agent, QUESTION)
    again = [*first.to_input_list(), {"role": "user", "content": "And 3 + 3?"}]
    return str(Runner.run_sync(agent, again).final_output)


check("run_sync", run)
check("a second turn", second_turn)
