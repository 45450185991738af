"""The usage chunk comes last: clients that merge chunks let later ones overwrite earlier ones.

With `stream_options: {"include_usage": true}`, OpenAI's chat sends one more chunk: it has no choices, and says how many
tokens there were. Clients merge the chunks of a stream into one answer, and take over each chunk's `usage`, even
`null`. So a usage chunk anywhere but at the end is overwritten, and a counter of tokens shows nothing.

A client that reads `chunk.choices[0]` without checking fails at a chunk without choices, so this chunk is sent only on
request.

In the service: contract/openai/stream.py: ChunkWriter.
"""

import _start

import json
from typing import Any

import contract
from interface.events import Event, Finished, Token

EVENTS: list[Event] = [
    Token("Hel", 1, ms=1, is_first=True),
    Token("lo", 2, ms=1, is_first=False),
    Finished("stop", prompt_tokens=3, completion_tokens=2, prefill_ms=1, decode_ms=1, total_ms=2),
]


def chunks(include_usage: bool) -> list[dict[str, Any]]:
    """The chunks of a short answer."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    if include_usage:
        body["stream_options"] = {"include_usage": True}
    endpoint = contract.endpoints_at("/v1/chat/completions")["POST"]
    call = endpoint.parse(contract.Incoming(json.dumps(body).encode(), models=("model",)))
    assert not isinstance(call, contract.Question)
    writer = call.writer(contract.Accepted("an-id", [3]))
    wire = writer.start() + b"".join(map(writer.event, EVENTS)) + writer.end()
    frames = [frame.removeprefix("data: ") for frame in wire.decode().split("\n\n") if frame]
    return [json.loads(frame) for frame in frames if frame != "[DONE]"]


def put_together(stream: list[dict[str, Any]]) -> tuple[str, Any]:
    """What a client has after a stream: the text, and the usage that the last chunk left."""
    text, usage = "", None
    for chunk in stream:
        usage = chunk.get("usage")
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
    return text, usage and usage["total_tokens"]


asked = chunks(include_usage=True)
print(f"not asked for: {len(chunks(include_usage=False))} chunks, each with a choice")
print(f"asked for: {len(asked)} chunks; the last has {len(asked[-1]['choices'])} choices")
print("last:  text {!r}, total tokens {}".format(*put_together(asked)))
print("first: text {!r}, total tokens {}".format(*put_together([asked[-1], *asked[:-1]])))
