"""openai-agents, which speaks the Responses API."""

import asyncio

from agents import Agent, OpenAIConversationsSession, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

from study.clients.checks import MODEL, QUESTION, V1, check, expect

set_tracing_disabled(True)


def connect() -> tuple[AsyncOpenAI, OpenAIResponsesModel]:
    """A client, which belongs to one event loop, and the model behind it."""
    client = AsyncOpenAI(base_url=V1, api_key="any")
    return client, OpenAIResponsesModel(model=MODEL, openai_client=client)


_, model = connect()


def run() -> str:
    result = Runner.run_sync(Agent(name="Helper", instructions="Be brief.", model=model), QUESTION)
    expect(bool(result.final_output), "a text")
    return str(result.final_output)


def second_turn() -> str:
    agent = Agent(name="Helper", model=model)
    first = Runner.run_sync(agent, QUESTION)
    again = [*first.to_input_list(), {"role": "user", "content": "And 3 + 3?"}]
    return str(Runner.run_sync(agent, again).final_output)


async def in_a_session() -> str:
    client, model = connect()
    agent = Agent(name="Helper", model=model)
    session = OpenAIConversationsSession(openai_client=client)
    for text in (QUESTION, "And 3 + 3?"):
        await Runner.run(agent, text, session=session)
    kept = len(await session.get_items())
    expect(kept == 4, f"two questions and two answers, got {kept} items")
    await session.pop_item()
    expect(len(await session.get_items()) == 3, "one item less")
    await session.clear_session()
    return f"{kept} items"


async def in_a_conversation() -> str:
    client, model = connect()
    agent = Agent(name="Helper", model=model)
    conversation = await client.conversations.create()
    for text in (QUESTION, "And 3 + 3?"):
        await Runner.run(agent, text, conversation_id=conversation.id)
    items = [item async for item in client.conversations.items.list(conversation.id)]
    expect(len(items) == 4, f"two questions and two answers, got {len(items)} items")
    return f"{len(items)} items"


check("run_sync", run)
check("a second turn", second_turn)
check("a session of conversations", lambda: asyncio.run(in_a_session()))
check("conversation_id", lambda: asyncio.run(in_a_conversation()))
