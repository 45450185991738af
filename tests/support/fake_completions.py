"""A fake server with OpenAI's completions and no model, in llama.cpp's shapes or in OpenAI's only."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.event_stream import event_stream


class FakeCompletions:
    """`app` is the server. It answers every prompt with `pieces`, and waits for `may_go_on` before each."""

    def __init__(self, pieces: Sequence[str], owned_by: str = "someone") -> None:
        self.pieces = list(pieces)
        self.owned_by = owned_by
        self.context: int | None = 512
        self.error: dict[str, Any] | None = None
        """What comes in the stream after the first piece."""
        self.usage: dict[str, Any] | None = {
            "prompt_tokens": 7,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 4},
        }
        """What it says of its tokens at the end."""
        self.requests: list[dict[str, Any]] = []
        self.conversations: list[list[dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        self.left = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/completions", self._complete, methods=["POST"]),
        ]
        if owned_by == "llamacpp":
            routes += [
                Route("/health", lambda request: Response()),
                Route("/apply-template", self._render, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/detokenize", self._detokenize, methods=["POST"]),
            ]
        self.app = Starlette(routes=routes)

    async def _models(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        meta = {"meta": {"n_ctx": self.context, "n_vocab": 300}} if self.context else {}
        return JSONResponse({"data": [{"id": "theirs", "object": "model", "owned_by": self.owned_by, **meta}]})

    async def _render(self, request: Request) -> Response:
        body = await request.json()
        self.conversations.append(body["messages"])
        return JSONResponse(
            {"prompt": "".join(f"<{message['role']}>{message.get('content', '')}" for message in body["messages"])}
        )

    async def _tokenize(self, request: Request) -> Response:
        text = (await request.json())["content"].encode()
        return JSONResponse({"tokens": [{"id": byte, "piece": chr(byte) if byte < 128 else [byte]} for byte in text]})

    async def _detokenize(self, request: Request) -> Response:
        return JSONResponse({"content": bytes((await request.json())["tokens"]).decode()})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        if body["prompt"] == "unusable":
            return JSONResponse({"error": {"message": "not this one", "code": 400}}, status_code=400)
        if body["prompt"] == "crowded":
            return JSONResponse({"error": {"message": "come back later"}}, status_code=429)
        return event_stream(self._chunks(body), self._note_leaving)

    def _note_leaving(self) -> None:
        self.left += 1

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        for number, piece in enumerate(self.pieces[: body["max_tokens"]]):
            await self.may_go_on.wait()
            if self.error is not None and number == 1:
                yield {"error": self.error}
                return
            logprobs = self._logprobs(piece, number) if body.get("logprobs") is not None else None
            yield {"choices": [{"text": piece, "index": 0, "logprobs": logprobs, "finish_reason": None}]}
        reason = "length" if len(self.pieces) > body["max_tokens"] else "stop"
        yield {"choices": [{"text": "", "index": 0, "logprobs": None, "finish_reason": reason}]}
        yield {"choices": [], "usage": self.usage}

    def _logprobs(self, piece: str, number: int) -> dict[str, Any]:
        """llama.cpp's shape, or OpenAI's own."""
        if self.owned_by == "llamacpp":
            entry = {"id": number, "token": piece, "bytes": list(piece.encode()), "logprob": -0.5}
            return {"content": [{**entry, "top_logprobs": [entry]}]}
        return {"tokens": [piece], "token_logprobs": [-0.5], "top_logprobs": [{piece: -0.5, "other": -1.5}]}
