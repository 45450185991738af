"""`ENGINE_BACKEND=vllm`: vLLM's AsyncLLM behind the doors, on the server's own loop.

vLLM schedules and computes, in a process of its own; token ids go in and come out. Templates, stop strings, tool calls
and log probabilities are made here, so they are the same as with our own engine, and vLLM need not make text.

It needs an environment of its own (`make .venv-vllm`; docs/scale.md). The calls are those of vLLM 0.32.
"""

import asyncio
import signal
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

import anyio
from anyio import to_thread

from backends.relayed import EngineLost
from backends.token_relay import Made, TokenRelay, TokenService
from config import EngineSettings
from inference.text.text_side import TextSide
from inference.weights.text_only import load_text_side
from interface.engine import EngineService
from interface.errors import EngineUnavailable, LoadError, RequestError
from interface.events import Event, FinishReason, Logprobs
from interface.requests import EncodedRequest, GenerationRequest

HONOURS = frozenset(("model", "dtype", "context", "max_streams", "max_waiting", "generation_config"))
WATCH_INTERVAL = 0.5
"""Seconds between two checks of vLLM's engine process: while it is idle, its death raises nothing."""
DEAD = "vLLM's engine process has ended"
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "repetition": "stop",
}
LARGEST_SEED = 2**63


class AsyncEngine(Protocol):
    """The part of vLLM's AsyncLLM that is used here."""

    @property
    def errored(self) -> bool: ...

    @property
    def output_handler(self) -> "asyncio.Task[None] | None":
        """The task that reads what the engine process sends, from the first sequence on."""

    def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        """Yield a RequestOutput for each step, or for several that came at once; closing it aborts."""

    def shutdown(self) -> None: ...


def load(config: EngineSettings) -> EngineService:
    """Start vLLM; takes half a minute or more."""
    vllm = _import_vllm()
    if Path(config.model).is_file():
        raise LoadError(f"{config.model}: ENGINE_BACKEND=vllm takes a folder or a hub name, got a file")
    text = load_text_side(config)
    try:
        with _ignoring_ctrl_c():
            engine = vllm.AsyncLLM.from_engine_args(vllm.AsyncEngineArgs(**engine_settings(config, text)))
    except Exception as error:
        raise LoadError(f"{config.model}: vLLM cannot serve it: {error}") from error
    return VllmService(config, text, engine, vllm.sampling_params)


def engine_settings(config: EngineSettings, text: TextSide) -> dict[str, Any]:
    """Translate our settings to vLLM's."""
    return {
        "model": config.model,
        "dtype": config.dtype,
        "max_num_seqs": config.max_streams,
        "max_model_len": text.info.context,
        "generation_config": "vllm",  # which parameters a request gets is settled here
        "structured_outputs_config": {"backend": "guidance"},  # reads the same grammars as our own engine
        "disable_log_stats": True,
    }


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Start processes within this so that they ignore Ctrl-C, which a terminal sends to all: streams may end first.

    A process inherits the signals that the thread which started it blocks. vLLM's processes end at SIGTERM, which its
    `shutdown` sends.
    """
    resource_tracker.ensure_running()  # its start would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class VllmService(TokenService):
    """A running AsyncLLM as an engine service. `make_params` makes vLLM's SamplingParams of their values."""

    def __init__(
        self,
        config: EngineSettings,
        text: TextSide,
        engine: AsyncEngine,
        make_params: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        super().__init__(config, text)
        self._engine = engine
        self._make_params = make_params

    async def _connect(self) -> None:
        """Return at once: `load` has started vLLM."""

    async def _watch(self) -> None:
        while not self._engine.errored:  # noqa: ASYNC110  (vLLM has no event for it)
            await anyio.sleep(WATCH_INTERVAL)
        self._fail(DEAD)

    async def _relays(self, requests: Sequence[GenerationRequest]) -> Sequence["VllmRelay"]:
        encoded = await self._encode(requests)
        return [
            VllmRelay(request, self._text, self._engine, self._make_params(values_of(request, self._text)))
            for request in encoded
        ]

    def _check_engine(self) -> None:
        if self._engine.errored:
            self._fail(DEAD)

    async def _release(self) -> None:
        """Shut vLLM down, on a thread because that waits for its processes.

        vLLM's own `shutdown` cancels its reader last. On a thread that may be too late: the reader takes the end of the
        processes for a failure, and logs a traceback.
        """
        if self._engine.output_handler is not None:
            self._engine.output_handler.cancel()
        await to_thread.run_sync(self._engine.shutdown)


class VllmRelay(TokenRelay):
    """One sequence that vLLM computes."""

    def __init__(self, encoded: EncodedRequest, text: TextSide, engine: AsyncEngine, params: Any) -> None:
        super().__init__(encoded, text)
        self._engine = engine
        self._params = params

    async def events(self) -> AsyncGenerator[Event | None, None]:
        yield None  # vLLM accepts what was checked here, and sends nothing before the first token
        prompt = {"prompt_token_ids": list(self.encoded.prompt_ids)}
        try:
            async with aclosing(self._engine.generate(prompt, self._params, uuid.uuid4().hex)) as outputs:
                async for output in outputs:
                    for event in self._events_of_output(output):
                        yield event
                    if self.is_finished and output.outputs[0].finish_reason is None:  # it has ended here, not there
                        break
        except Exception as error:
            if self._engine.errored:
                raise EngineLost(DEAD) from error
            if isinstance(error, ValueError):  # what vLLM raises for a request that it does not take
                raise RequestError(f"vLLM refuses this: {error}") from error
            raise

    def _events_of_output(self, output: Any) -> list[Event]:
        [choice] = output.outputs
        reason = choice.finish_reason
        if reason == "error":
            raise EngineUnavailable("vLLM could not finish this sequence")
        logprobs = [
            self._logprobs(token_id, found)
            for token_id, found in zip(choice.token_ids, choice.logprobs or (), strict=False)
        ]
        finish_reason = None if reason is None else FINISH_REASONS[reason]
        prompt_logprobs = partial(self._prompt_logprobs, output.prompt_logprobs)
        made = Made(choice.token_ids, finish_reason, logprobs, output.num_cached_tokens or 0, prompt_logprobs)
        return list(self.events_of(made))

    def _prompt_logprobs(self, prompt_logprobs: Sequence[Any] | None) -> Sequence[Logprobs]:
        """The log probabilities of the prompt's tokens from the second one on; the first has none."""
        if prompt_logprobs is None:
            return ()
        rest = zip(self.encoded.prompt_ids, prompt_logprobs, strict=True)
        return [self._logprobs(token_id, found) for token_id, found in rest if found is not None]

    def _logprobs(self, chosen: int, found: Mapping[int, Any]) -> Logprobs:
        """Read vLLM's candidates for one token: the most likely ones, and the chosen one at any rank."""
        describe = self.answer.describe
        ranked = sorted(found.items(), key=lambda item: item[1].rank)[: self.encoded.params.logprobs or 0]
        top = tuple(describe(token_id, its.logprob) for token_id, its in ranked)
        return Logprobs(describe(chosen, found[chosen].logprob), top)


def values_of(encoded: EncodedRequest, text: TextSide) -> dict[str, Any]:
    """A request's parameters under the names of vLLM's SamplingParams; `grammar` is a Lark grammar, if there is one.

    The tokens that end the text are all given as stop tokens, because vLLM's own idea of them may be another.
    """
    request, params = encoded.request, encoded.params
    values = {
        "max_tokens": params.max_tokens,
        "min_tokens": params.min_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
        "logit_bias": params.logit_bias,
        "seed": None if params.seed is None else params.seed % LARGEST_SEED,
        "stop_token_ids": sorted(text.ends(params)),
        "ignore_eos": True,
        "logprobs": params.logprobs,
        "prompt_logprobs": (params.logprobs or 0) if request.prompt_logprobs else None,
        "grammar": None if encoded.grammar is None else encoded.grammar.lark,
    }
    return {name: value for name, value in values.items() if value is not None}


class _Vllm:
    """The names of vLLM that are used."""

    def __init__(self) -> None:
        parameters = import_module("vllm.sampling_params")
        self.AsyncEngineArgs = import_module("vllm.engine.arg_utils").AsyncEngineArgs
        self.AsyncLLM = import_module("vllm.v1.engine.async_llm").AsyncLLM
        self._params = parameters.SamplingParams
        self._grammar = parameters.StructuredOutputsParams
        self._kind = parameters.RequestOutputKind.DELTA

    def sampling_params(self, values: Mapping[str, Any]) -> Any:
        values = dict(values)
        grammar = values.pop("grammar", None)
        structured = None if grammar is None else self._grammar(grammar=grammar)
        return self._params(**values, detokenize=False, output_kind=self._kind, structured_outputs=structured)


def _import_vllm() -> _Vllm:
    try:
        return _Vllm()
    except ImportError as error:
        raise LoadError(
            f"ENGINE_BACKEND=vllm needs vLLM, in an environment of its own: make .venv-vllm, and start the server with "
            f".venv-vllm/bin/python ({error})"
        ) from error
