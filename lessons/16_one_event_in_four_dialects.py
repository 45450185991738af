"""One event in four dialects: the engine emits it once, and each API writes it in its own way.

The engine emits one event for a token. What a client reads depends on the API: `/generate` names the token, OpenAI's
chat sends a delta, and its Responses API and Anthropic's Messages send named events, which are numbered or nested in
blocks. An endpoint's writer turns events into bytes and does no I/O, so the same writer serves every door.

Only two of the four end with `[DONE]`; the others end with an event whose name says so.

In the service: contract/endpoints.py: Writer; contract/generate.py: GenerateWriter; contract/sse.py: frames.
"""

import _start

import json
import re

import contract
from interface.events import Finished, Token

MESSAGES = [{"role": "user", "content": "Hi"}]
ASKED = {
    "/generate": {"prompt": "Hi", "stream": True},
    "/v1/chat/completions": {"messages": MESSAGES, "stream": True},
    "/v1/responses": {"input": "Hi", "stream": True},
    "/v1/messages": {"messages": MESSAGES, "stream": True, "max_tokens": 5},
}
FIRST = Token("Hello", 310, ms=8.5, is_first=True)
TOKEN = Token(" there", 311, ms=2.5, is_first=False)
FINISHED = Finished("stop", prompt_tokens=1, completion_tokens=2, prefill_ms=1, decode_ms=1, total_ms=2)
ACCEPTED = contract.Accepted("an-id", [1])


def shortened(wire: bytes) -> str:
    """A frame without the ids and times that differ from run to run."""
    text = re.sub(r'"(id|item_id|system_fingerprint)":"[^"]*"', r'"\1":"…"', wire.decode())
    return re.sub(r'"created(_at)?":[\d.]+', r'"created\1":…', text)


for path, body in ASKED.items():
    endpoint = contract.endpoints_at(path)["POST"]
    call = endpoint.parse(contract.Incoming(json.dumps(body).encode(), models=("model",)))
    assert not isinstance(call, contract.Question)
    writer = call.writer(ACCEPTED)
    before = writer.start() + writer.event(FIRST)
    written, end = writer.event(TOKEN), writer.event(FINISHED) + writer.end()
    print(f"POST {path}: events for the first token: {before.count(b'data: ')}; for the next one")
    for line in filter(None, shortened(written).splitlines()):
        print(f"    {line}")
    print(f"  and at the end {end.count(b'data: ')}, the last of them {'[DONE]' if b'[DONE]' in end else 'named'}")
