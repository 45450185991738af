"""`ENGINE_BACKEND=openai`: the doors in front of any server with OpenAI's `/v1/completions` (`ENGINE_BACKEND_URL`).

The server renders, tokenizes, computes and makes the text; its events are passed on as they come. `ENGINE_MODEL` is the
name under which it offers the model. If it sends only text, there are no token ids. A parameter that it does not have
is refused by name (`backends.openai_dialects`), and so is what `/v1/completions` lacks: tools, the echo of the prompt,
and conversations, unless the server has an endpoint that renders or tokenizes them, as llama.cpp, vLLM and these doors
do.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio

from backends.openai_chunks import Choice, Usage, parse_chunk
from backends.openai_dialects import DIALECTS, PLAIN
from backends.openai_messages import messages_on_the_wire
from backends.relayed import EngineLost
from backends.remote import RemoteService, Server
from backends.replies import LONGEST_REASON, Reply
from backends.split_characters import SplitCharacters
from config import EngineSettings
from interface.engine import EngineService, ModelInfo, Tokenized
from interface.errors import LoadError, PromptTooLong, RequestError, UnsupportedFeature
from interface.events import Event, Finished, FinishReason, Logprobs, Token, TokenLogprob
from interface.requests import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt

HONOURS = frozenset(("model", "context", "max_streams", "max_waiting", "backend_url", "backend_key", "backend_silence"))
COMPLETIONS = "/v1/completions"
USAGE_LIMIT = 2.0
"""Seconds that the counts of a text may take after its end. Without them it is complete, too."""
OF_CLIENTS = "/v1"
"""The end of the URL that OpenAI's own clients are given; here it is part of the paths."""


def load(config: EngineSettings) -> EngineService:
    if config.backend_url is None:
        raise LoadError("ENGINE_BACKEND=openai: expected ENGINE_BACKEND_URL, as in http://127.0.0.1:8080, got none")
    return OpenAIService(config)


class OpenAIService(RemoteService):
    """A server with OpenAI's completions as an engine service."""

    HEALTH = PROBE = "/health"

    def __init__(self, config: EngineSettings) -> None:
        assert config.backend_url is not None
        super().__init__(replace(config, backend_url=config.backend_url.removesuffix(OF_CLIENTS)))
        self._config = config
        self._dialect = PLAIN
        self._info = ModelInfo(0, 0, {"tokenizer_class": "unknown"})

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        self._check_available()
        with self._asking():
            return await self._tokenized(prompt)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        self._check_available()
        with self._asking():
            return await self._detokenized(token_ids)

    async def _tokenized(self, prompt: Prompt) -> Tokenized:
        match self._dialect.tokenizer, prompt:
            case _, TokenPrompt():
                return Tokenized(
                    prompt.token_ids, [await self._detokenized([token_id]) for token_id in prompt.token_ids]
                )
            case "llama.cpp", _:
                return await self._tokenize_with_llama_cpp(prompt)
            case "vllm", _:
                return await self._tokenize_with_vllm(prompt)
        raise UnsupportedFeature(
            f"The engine's server ({self._dialect.name}) does not tokenize for others, which this needs. "
            f"POST /v1/completions and POST /generate take a text without it.",
            "messages" if isinstance(prompt, ChatPrompt) else "prompt",
        )

    async def _detokenized(self, token_ids: Sequence[int]) -> str:
        if self._dialect.tokenizer is None:
            raise UnsupportedFeature(f"The engine's server ({self._dialect.name}) does not detokenize for others.")
        largest, vocabulary = max(token_ids, default=0), self._info.vocabulary
        if 0 < vocabulary <= largest:  # llama.cpp's server takes these for a failure of its own
            raise RequestError(f"tokens: expected token ids below {vocabulary}, got {largest}.", "tokens")
        reply = await self.server.post("/detokenize", {"model": self._config.model, "tokens": list(token_ids)})
        return str(reply["content" if self._dialect.tokenizer == "llama.cpp" else "prompt"])

    async def _learn(self) -> None:
        models = (await self.server.ask("/v1/models"))["data"]
        model = next((offered for offered in models if offered["id"] == self._config.model), None)
        if model is None:
            names = ", ".join(model["id"] for model in models)
            raise LoadError(
                f"ENGINE_MODEL: expected a name under which {self.server.url} offers a model ({names}), "
                f"got {self._config.model}"
            )
        self._dialect = DIALECTS.get(model.get("owned_by"), PLAIN)
        meta = model.get("meta") or {}
        theirs = model.get("max_model_len") or meta.get("n_ctx")
        context = self._config.context or theirs
        if context is None:
            raise LoadError(f"ENGINE_CONTEXT: {self.server.url} does not say how many tokens it takes; set it")
        if theirs is not None and context > theirs:
            raise LoadError(f"ENGINE_CONTEXT: {self.server.url} takes {theirs} tokens together, fewer than {context}")
        self._info = ModelInfo(context, meta.get("n_vocab", 0), self._info.tokenizer)

    async def _relays(self, requests: Sequence[GenerationRequest]) -> Sequence["OpenAIRelay"]:
        prompts = {id(request.prompt): request.prompt for request in requests}
        rendered = {key: await self._rendered(prompt) for key, prompt in prompts.items()}
        return [
            OpenAIRelay(request, self.server, *self._body_of(request, rendered[id(request.prompt)]))
            for request in requests
        ]

    async def _rendered(self, prompt: Prompt) -> str | list[int]:
        """Return a prompt as token ids if the server can tokenize it, or else as text."""
        if isinstance(prompt, ChatPrompt) and prompt.tools and prompt.tool_choice != "none":
            raise UnsupportedFeature(
                "tools: the engine's server is asked for plain completions, which have none.", "tools"
            )
        if isinstance(prompt, TokenPrompt):
            return list(prompt.token_ids)
        if self._dialect.tokenizer is None and isinstance(prompt, TextPrompt) and prompt.add_special_tokens:
            return prompt.text
        return list((await self._tokenized(prompt)).token_ids)

    def _body_of(self, request: GenerationRequest, prompt: str | list[int]) -> tuple[dict[str, Any], int]:
        """Return the body of a request, and how many tokens its prompt has; 0 if that is not known yet."""
        if request.echo or request.prompt_logprobs:
            raise UnsupportedFeature("echo, return_token_ids: the engine's server is not asked for the prompt.", "echo")
        prompt_tokens = 0 if isinstance(prompt, str) else len(prompt)
        if not prompt_tokens:
            request = replace(request, fill_context=False)  # only the server knows how much is left
        max_tokens = request.max_tokens(prompt_tokens, self._info.context)
        self._check_room(request.prompt, prompt_tokens)
        limits = {"model": self._config.model, "prompt": prompt, "max_tokens": max_tokens}
        streams = {"stream": True, "stream_options": {"include_usage": True}}
        return self._dialect.body_of(request) | limits | streams, prompt_tokens

    def _check_room(self, prompt: Prompt, prompt_tokens: int) -> None:
        """Refuse a conversation that would have to be shortened: that takes the template. Raises PromptTooLong."""
        if isinstance(prompt, ChatPrompt) and prompt.leave_room is not None:
            context = self._info.context
            room = min(prompt.leave_room, context // 2)
            if prompt_tokens > context - room:
                raise PromptTooLong(prompt_tokens, room, context)

    async def _tokenize_with_llama_cpp(self, prompt: Prompt) -> Tokenized:
        adds = prompt.add_special_tokens if isinstance(prompt, TextPrompt) else True
        text = prompt.text if isinstance(prompt, TextPrompt) else await self._render_with_llama_cpp(prompt)
        body = {"content": text, "add_special": adds, "parse_special": True, "with_pieces": True}
        tokens = (await self.server.post("/tokenize", body))["tokens"]
        return Tokenized([token["id"] for token in tokens], [_piece(token["piece"]) for token in tokens])

    async def _render_with_llama_cpp(self, prompt: Prompt) -> str:
        assert isinstance(prompt, ChatPrompt)
        if prompt.continue_final_message:
            raise UnsupportedFeature("continue_final_message: llama.cpp does not have it.", "continue_final_message")
        body = {
            "messages": messages_on_the_wire(prompt.messages),
            "add_generation_prompt": prompt.add_generation_prompt,
            "chat_template_kwargs": prompt.template_arguments,
        }
        return str((await self.server.post("/apply-template", body))["prompt"])

    async def _tokenize_with_vllm(self, prompt: Prompt) -> Tokenized:
        body: dict[str, Any] = {"model": self._config.model, "return_token_strs": True}
        if isinstance(prompt, ChatPrompt):
            body |= {
                "messages": messages_on_the_wire(prompt.messages),
                "add_generation_prompt": prompt.add_generation_prompt,
                "continue_final_message": prompt.continue_final_message,
                "add_special_tokens": prompt.add_special_tokens,
                "chat_template_kwargs": prompt.template_arguments,
            }
        elif isinstance(prompt, TextPrompt):
            body |= {"prompt": prompt.text, "add_special_tokens": prompt.add_special_tokens}
        reply = await self.server.post("/tokenize", body)
        return Tokenized(reply["tokens"], reply["token_strs"])


class OpenAIRelay:
    """One sequence whose text another server makes."""

    def __init__(self, request: GenerationRequest, server: Server, body: dict[str, Any], prompt_tokens: int) -> None:
        self.request = request
        self.prompt_tokens = prompt_tokens
        self._server = server
        self._body = body
        self._tokens = 0
        self._usage = Usage()
        self._stop_reason: str | int | None = None
        self._characters = SplitCharacters()
        self._began_at = self._last_at = time.perf_counter()
        self._first_at: float | None = None

    async def events(self) -> AsyncGenerator[Event | None, None]:
        reason: FinishReason | None = None
        try:
            async with self._server.stream(COMPLETIONS, self._body) as chunks:
                yield None
                async for reply in chunks:
                    chunk = parse_chunk(reply, COMPLETIONS)
                    self._usage = chunk.usage or self._usage
                    for choice in chunk.choices or ():
                        reason = _finish_reason(choice) or reason
                        self._stop_reason = choice.stop_reason or self._stop_reason
                        for token in self._tokens_of(choice):
                            yield token
                    if reason is not None:
                        break
                with anyio.move_on_after(USAGE_LIMIT):
                    await self._read_usage(chunks)
        except EngineLost:
            if reason is None:
                raise
        if reason is not None:  # without one, the answer has broken off
            yield self.finish(reason)

    async def _read_usage(self, chunks: AsyncIterator[Reply]) -> None:
        """Read what comes after the end of a text: how many tokens it had."""
        async for reply in chunks:
            self._usage = parse_chunk(reply, COMPLETIONS).usage or self._usage

    def finish(self, reason: FinishReason) -> Finished:
        now = time.perf_counter()
        first = now if self._first_at is None else self._first_at
        details = self._usage.prompt_tokens_details
        return Finished(
            finish_reason=reason,
            prompt_tokens=self._usage.prompt_tokens or self.prompt_tokens,
            completion_tokens=self._usage.completion_tokens or self._tokens,
            prefill_ms=1e3 * (first - self._began_at),
            decode_ms=1e3 * (self._last_at - first if self._tokens else 0.0),
            total_ms=1e3 * (now - self._began_at),
            cached_tokens=(details and details.cached_tokens) or 0,
            stop_reason=self._stop_reason,
            index=self.request.index,
        )

    def _tokens_of(self, choice: Choice) -> list[Token]:
        """Return the tokens of a piece of text, all of which the last one has. Without ids, a piece is one token."""
        text = self._characters.joined(choice.text or "", is_last=choice.finish_reason is not None)
        logprobs = _checked_logprobs(choice)
        ids: Sequence[int | None] = choice.token_ids or [token.chosen.token_id for token in logprobs]
        if not ids and not text:
            return []
        ids = ids or [None]
        entries = logprobs if len(logprobs) == len(ids) else [None] * len(ids)
        return [
            self._token(text if place == len(ids) else "", token_id, entry)
            for place, (token_id, entry) in enumerate(zip(ids, entries, strict=True), start=1)
        ]

    def _token(self, text: str, token_id: int | None, logprobs: Logprobs | None) -> Token:
        now = time.perf_counter()
        is_first = self._first_at is None
        if is_first:
            self._first_at = now
        token = Token(text, token_id, 1e3 * (now - self._last_at), is_first, self.request.index, logprobs)
        self._tokens += 1
        self._last_at = now
        return token


def _finish_reason(choice: Choice) -> FinishReason | None:
    reason = choice.finish_reason
    if reason is None:
        return None
    return "length" if reason == "length" else "abort" if reason == "abort" else "stop"


def _checked_logprobs(choice: Choice) -> list[Logprobs]:
    """Read a choice's log probabilities. Raises EngineLost if they make no sense."""
    try:
        return _logprobs_of(choice.logprobs)
    except (AttributeError, LookupError, TypeError, ValueError):
        got = str(choice.logprobs)[:LONGEST_REASON]
        raise EngineLost(f"expected log probabilities in what {COMPLETIONS} answers, got {got}") from None


def _logprobs_of(logprobs: Mapping[str, Any] | None) -> list[Logprobs]:
    """Read log probabilities in the shape of OpenAI's completions, or in that of its chats, which llama.cpp uses."""
    if logprobs is None:
        return []
    if "content" in logprobs:
        return [
            Logprobs(_described(entry), tuple(map(_described, entry["top_logprobs"]))) for entry in logprobs["content"]
        ]
    tops = logprobs.get("top_logprobs") or [{}] * len(logprobs["tokens"])
    return [
        Logprobs(_named(token, logprob), tuple(_named(*other) for other in (top or {}).items()))
        for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True)
    ]


def _described(token: Mapping[str, Any]) -> TokenLogprob:
    own = token.get("bytes")
    own_bytes = token["token"].encode() if own is None else bytes(own)
    return TokenLogprob(token.get("id"), token["token"], own_bytes, token["logprob"])


def _named(token: str, logprob: float | None) -> TokenLogprob:
    """A token without an id."""
    return TokenLogprob(None, token, token.encode(), logprob)


def _piece(piece: str | list[int]) -> str:
    """A token's text. llama.cpp sends a list of bytes if they are not text."""
    return piece if isinstance(piece, str) else bytes(piece).decode(errors="replace")
