"""A fake SGLang server without a model, with the paths, requests and answers of SGLang 0.5.23.

Written from its sources: `entrypoints/http_server.py` (paths, errors in a stream, [DONE]), `managers/scheduler.py`
(what a full queue answers), `managers/schedule_batch.py` (finish reasons), `managers/tokenizer_manager.py` (chunks,
`meta_info`, log probabilities as triples), `entrypoints/openai/protocol.py` (/tokenize).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.event_stream import event_stream

Tokenize = Callable[[str], Sequence[int]]


class FakeSGLang:
    """`app` is the server. It answers every prompt with `answer`, a token per chunk, and then the end's token.

    `hold()` makes it stop before each token until `release()`.
    """

    def __init__(self, tokenize: Tokenize, answer: Sequence[int], eos: int) -> None:
        self.tokenize = tokenize
        self.answer = list(answer)
        self.eos = eos
        self.is_incremental = False
        self.is_full = False
        self.is_healthy = True
        self.probes = 0
        self.breaks_after: int | None = None
        """After so many tokens, a connection breaks."""
        self.coalesces = 1
        """Tokens in a chunk."""
        self.grammar_backend = "xgrammar"
        self.context = 4096
        self.requests: list[dict[str, Any]] = []
        self.aborted: list[str] = []
        self.left: list[str] = []
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/model_info", self._health),
                Route("/server_info", self._server_info),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/generate", self._generate, methods=["POST"]),
                Route("/abort_request", self._abort, methods=["POST"]),
            ]
        )

    def hold(self) -> None:
        self._may_go_on.clear()

    def release(self) -> None:
        self._may_go_on.set()

    async def _health(self, request: Request) -> Response:
        self.probes += 1
        return Response(status_code=200 if self.is_healthy else 503)

    async def _server_info(self, request: Request) -> Response:
        return JSONResponse(
            {
                "grammar_backend": self.grammar_backend,
                "incremental_streaming_output": self.is_incremental,
                "version": "0.5.23",
            }
        )

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        assert body["add_special_tokens"] is False
        tokens = list(self.tokenize(body["prompt"]))
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": self.context})

    async def _abort(self, request: Request) -> Response:
        self.aborted.append((await request.json())["rid"])
        return Response(status_code=200)

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        assert body["stream"] is True
        self.requests.append(body)
        if len(body["input_ids"]) == 13:  # what it does not like
            return JSONResponse({"error": {"message": "an unlucky number of tokens"}}, status_code=400)
        return event_stream(self._chunks(body), lambda: self.left.append(body["rid"]))

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        if self.is_full:
            full = {"type": "abort", "message": "The request queue is full.", "status_code": 503, "err_type": None}
            yield self._chunk(body, [], [], full)
            return
        limit = body["sampling_params"]["max_new_tokens"]
        made = [*self.answer, self.eos][:limit]
        for end in range(self.coalesces, len(made) + self.coalesces, self.coalesces):
            if self.breaks_after is not None and end > self.breaks_after:
                raise ConnectionError("the fake breaks off")
            await self._may_go_on.wait()
            so_far = made[:end]
            reason = self._reason(so_far, limit) if len(so_far) == len(made) else None
            yield self._chunk(body, so_far, so_far[end - self.coalesces :], reason)

    def _reason(self, made: Sequence[int], limit: int) -> dict[str, Any]:
        if made[-1] == self.eos:
            return {"type": "stop", "matched": self.eos}
        return {"type": "length", "length": limit}

    def _chunk(
        self, body: dict[str, Any], made: Sequence[int], new: Sequence[int], reason: dict[str, Any] | None
    ) -> dict[str, Any]:
        shown = new if self.is_incremental else made
        meta = {
            "id": body["rid"],
            "finish_reason": reason,
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": len(made),
            "cached_tokens": 2,
        }
        if body.get("return_logprob"):
            top = body["top_logprobs_num"]
            prompt = body["input_ids"] if body.get("logprob_start_len") == 0 else []
            meta |= {
                "input_token_logprobs": [
                    (None if n == 0 else -1.5 - n, token_id, None) for n, token_id in enumerate(prompt)
                ],
                "output_token_logprobs": [(-0.5, token_id, None) for token_id in shown],
            }
            if top:
                meta["input_top_logprobs"] = [None, *([[(-1.5, 7, None)] * top] * (len(prompt) - 1))]
                meta["output_top_logprobs"] = [[(-0.5 - n, 7 + n, None) for n in range(top)] for _ in shown]
        return {"text": "", "output_ids": list(shown), "meta_info": meta}
