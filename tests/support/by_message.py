"""What the doors' tests by message share: each plays the server, with a receive and a send of its own.

Every test runs against both doors, alone and with a transcript around them. The engine is a script (see
study/common/engine.py), so that a test can hold it at a step and look at what has been sent by then.
"""

import contextlib
from collections.abc import AsyncIterator

import pytest

import contract
from tests.support.asgi_client import JSON, SERVERS, UVICORN, Exchange, Server, until
from tests.support.serving import Service

any_server = pytest.mark.parametrize("server", SERVERS, ids=str)
streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])


async def expect_start(exchange: Exchange) -> dict[str, str]:
    """The headers, once they have been sent."""
    message = await exchange.next_message()
    assert (message["type"], message["status"]) == ("http.response.start", 200)
    return {name.decode(): value.decode() for name, value in message["headers"]}


@contextlib.asynccontextmanager
async def submitted(service: Service, prompt: str, stream: bool, server: Server = UVICORN) -> AsyncIterator[Exchange]:
    """A request that the engine has. Requests that are opened together may reach it in any order."""
    before = len(service.engine.prompts)
    async with service.client.open_generate(prompt, stream, server, max_tokens=300) as exchange:
        await until(lambda: len(service.engine.prompts) > before)
        yield exchange


ANSWERS = [  # method, path, body, headers, status
    pytest.param("GET", "/health", b"", {}, 200, id="200"),
    pytest.param("POST", "/generate", b'{"prompt": "hello"}', JSON, 200, id="200 whole"),
    pytest.param("POST", "/generate", b'{"prompt": "hello", "stream": true}', JSON, 200, id="200 stream"),
    pytest.param("HEAD", "/docs", b"", {}, 200, id="200 HEAD"),
    pytest.param("GET", "/nothing", b"", {}, 404, id="404"),
    pytest.param("GET", "/generate", b"", {}, 405, id="405"),
    pytest.param("POST", "/generate", b" " * (contract.MAX_BODY_BYTES + 1), JSON, 413, id="413"),
    pytest.param("POST", "/generate", b"", {}, 415, id="415"),
    pytest.param("POST", "/generate", b"{", JSON, 422, id="422"),
    pytest.param("POST", "/generate", b'{"prompt": "x", "max_tokens": 1000000}', JSON, 422, id="422 context"),
    pytest.param("POST", "/generate", b'{"prompt": "explode"}', JSON, 500, id="500"),
    pytest.param("POST", "/generate", b'{"prompt": "full"}', JSON, 503, id="503"),
]
