"""`ENGINE_BACKEND=sglang`: the doors in front of an SGLang server that is running (`ENGINE_BACKEND_URL`).

Token ids go to its own `/generate`, and token ids come back; templates, stop strings, tool calls and log
probabilities are made here, with the tokenizer of `ENGINE_MODEL`, which has to be that server's model. Leaving a stream
closes its connection, and `/abort_request` says so at once: by itself SGLang notices a closed connection seconds later.

The shapes are those of SGLang 0.5.23, read in its sources: `managers/io_struct.py` (GenerateReqInput),
`managers/tokenizer_manager.py` (the chunks of a stream; cumulative, unless the server was started with
--incremental-streaming-output), `entrypoints/http_server.py` (the paths), `sampling/sampling_params.py`.
"""

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any

from backends.remote import RemoteService, Server
from backends.replies import Reply, refusal
from backends.token_relay import Made, TokenRelay, TokenService
from config import EngineSettings
from inference.text.text_side import TextSide
from inference.weights.text_only import load_text_side
from interface.engine import EngineService
from interface.errors import EngineUnavailable, LoadError, QueueFull, RequestError, UnsupportedFeature
from interface.events import Event, FinishReason, Logprobs
from interface.requests import EncodedRequest, GenerationRequest, TextPrompt

HONOURS = frozenset(
    (
        "model",
        "context",
        "max_streams",
        "max_waiting",
        "generation_config",
        "backend_url",
        "backend_key",
        "backend_silence",
    )
)
FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}
GENERATE = "/generate"
LARGEST_PENALTY = 2.0
SPELLINGS: Mapping[str, str] = {"json_schema": "json_schema", "regex": "regex"}
"""The kinds of grammars that all of SGLang's grammar backends support, and its names for them."""
SPECIMEN = "def añadir(x):\n\treturn [x, 'été', 3.14159]  # 你好, <|im_end|>"
"""A text that two different tokenizers will hardly split in the same way."""


def load(config: EngineSettings) -> EngineService:
    if config.backend_url is None:
        raise LoadError("ENGINE_BACKEND=sglang: expected ENGINE_BACKEND_URL, as in http://127.0.0.1:30000, got none")
    return SGLangService(config, load_text_side(config))


class SGLangService(TokenService, RemoteService):
    """An SGLang server as an engine service."""

    HEALTH = "/health"  # makes a token, if the server is idle
    PROBE = "/model_info"

    def __init__(self, config: EngineSettings, text: TextSide) -> None:
        super().__init__(config, text)
        self._has_lark = False
        self._is_cumulative = True

    async def _learn(self) -> None:
        server_info = await self.server.ask("/server_info")
        self._has_lark = server_info.get("grammar_backend") == "llguidance"
        self._is_cumulative = not server_info.get("incremental_streaming_output")
        theirs = await self.server.post("/tokenize", {"prompt": SPECIMEN, "add_special_tokens": False})
        ours = self._text.tokenize(TextPrompt(SPECIMEN, add_special_tokens=False)).token_ids
        if list(theirs["tokens"]) != list(ours):
            raise LoadError(
                f"ENGINE_MODEL: expected the model that {self.server.url} serves; its tokenizer cuts a text into "
                f"other tokens than this one's"
            )
        if theirs["max_model_len"] < self.info.context:
            raise LoadError(
                f"ENGINE_CONTEXT: {self.server.url} takes {theirs['max_model_len']} tokens of prompt and answer "
                f"together, and the context here is {self.info.context}"
            )

    async def _relays(self, requests: Sequence[GenerationRequest]) -> Sequence["SGLangRelay"]:
        encoded = await self._encode(requests)
        bodies = [body_of(request, self._has_lark) for request in encoded]
        return [
            SGLangRelay(request, self._text, self.server, body, self._is_cumulative)
            for request, body in zip(encoded, bodies, strict=True)
        ]


class SGLangRelay(TokenRelay):
    """One sequence that SGLang computes."""

    def __init__(
        self, encoded: EncodedRequest, text: TextSide, server: Server, body: dict[str, Any], is_cumulative: bool
    ) -> None:
        super().__init__(encoded, text)
        self._server = server
        self._rid = uuid.uuid4().hex
        self._body = body | {"rid": self._rid}
        self._is_cumulative = is_cumulative
        self._taken = 0
        self._has_ended_there = False

    async def events(self) -> AsyncGenerator[Event | None, None]:
        try:
            async with self._server.stream(GENERATE, self._body, error_status=400) as chunks:
                async for chunk in chunks:
                    for event in self._events_of_chunk(chunk):
                        yield event
                    if self.is_finished and not self._has_ended_there:
                        break
        except (RequestError, QueueFull, EngineUnavailable):
            self._has_ended_there = True
            raise
        finally:
            if not self._has_ended_there:
                self._server.tell("/abort_request", {"rid": self._rid})

    def _events_of_chunk(self, chunk: Reply) -> list[Event]:
        meta = Reply(chunk["meta_info"], GENERATE)
        reason = meta["finish_reason"]
        self._has_ended_there = reason is not None
        if reason is not None and reason["type"] == "abort" and reason.get("status_code"):
            raise refusal(reason["status_code"], reason["message"].encode(errors="replace"))
        return list(self.events_of(self._made(chunk, meta, None if reason is None else FINISH_REASONS[reason["type"]])))

    def _made(self, chunk: Reply, meta: Reply, reason: FinishReason | None) -> Made:
        """Return what is new in a chunk, which may be cumulative."""
        begin = self._taken if self._is_cumulative else 0
        token_ids = chunk["output_ids"][begin:]
        self._taken += len(token_ids)
        chosen = meta.get("output_token_logprobs", ())[begin:]
        logprobs = self._logprobs(chosen, meta.get("output_top_logprobs", ())[begin:])
        return Made(token_ids, reason, logprobs, meta["cached_tokens"], partial(self._prompt_logprobs, meta))

    def _prompt_logprobs(self, meta: Reply) -> Sequence[Logprobs]:
        """The log probabilities of the prompt's tokens from the second one on; the first has none."""
        return self._logprobs(meta.get("input_token_logprobs", [])[1:], meta.get("input_top_logprobs", [])[1:])

    def _logprobs(self, chosen: Sequence[Any], top: Sequence[Any]) -> Sequence[Logprobs]:
        """SGLang's triples of log probability, token id and text."""
        describe = self.answer.describe
        return [
            Logprobs(
                describe(token_id, logprob),
                tuple(describe(other, its) for its, other, _ in (top[place] or () if place < len(top) else ())),
            )
            for place, (logprob, token_id, _) in enumerate(chosen)
        ]


def body_of(encoded: EncodedRequest, has_lark: bool) -> dict[str, Any]:
    """Return the body of a request to SGLang.

    Raises:
        UnsupportedFeature: SGLang cannot do what the request asks for; the message names it.
    """
    request, params = encoded.request, encoded.params
    if params.repetition_penalty > LARGEST_PENALTY:
        raise UnsupportedFeature(
            f"repetition_penalty: SGLang takes at most {LARGEST_PENALTY:g}, got {params.repetition_penalty:g}.",
            "repetition_penalty",
        )
    sampling: dict[str, Any] = {
        "max_new_tokens": params.max_tokens,
        "min_new_tokens": params.min_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
        "stop_token_ids": params.stop_token_ids,
        "ignore_eos": params.ignore_eos,
        "sampling_seed": params.seed,
        **_grammar_of(encoded, has_lark),
    }
    if params.logit_bias:
        sampling["logit_bias"] = {str(token_id): bias for token_id, bias in params.logit_bias.items()}
    body = {
        "input_ids": list(encoded.prompt_ids),
        "sampling_params": {name: value for name, value in sampling.items() if value is not None},
        "stream": True,
    }
    if params.logprobs is not None or request.prompt_logprobs:
        body |= {"return_logprob": True, "top_logprobs_num": params.logprobs or 0}
    if request.prompt_logprobs:
        body["logprob_start_len"] = 0
    return body


def _grammar_of(encoded: EncodedRequest, has_lark: bool) -> dict[str, str]:
    """The grammar of a request, under SGLang's name for its kind."""
    if encoded.grammar is None:
        return {}
    if has_lark:  # the same library as ours reads it there
        return {"ebnf": encoded.grammar.lark}
    grammar = encoded.request.grammar
    spelled = None if grammar is None or encoded.reader is not None else SPELLINGS.get(grammar.kind)
    if grammar is None or spelled is None:
        raise UnsupportedFeature(
            "This needs a grammar that SGLang reads only with llguidance (start it with --grammar-backend llguidance): "
            "a Lark grammar, a list of choices, a forced tool call, or one after reasoning."
        )
    return {spelled: grammar.source}
