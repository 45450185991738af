"""A fake AsyncLLM of vLLM 0.32 without a model: the calls that the adapter makes, and what they return."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeLogprob:
    logprob: float
    rank: int


@dataclass
class FakeCompletion:
    """vLLM's CompletionOutput, with output_kind DELTA and without text."""

    token_ids: Sequence[int]
    finish_reason: str | None
    logprobs: Sequence[dict[int, FakeLogprob]] | None


@dataclass
class FakeOutput:
    """vLLM's RequestOutput."""

    outputs: list[FakeCompletion]
    prompt_logprobs: Sequence[dict[int, FakeLogprob] | None] | None
    num_cached_tokens: int | None = 3


@dataclass(eq=False)
class FakeAsyncLLM:
    """Answers every prompt with `answer`, `coalesces` tokens in an output; `hold` makes it stop before each."""

    answer: Sequence[int]
    coalesces: int = 1
    finish_reason: str = "stop"
    refusal: Exception | None = None
    params: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    errored: bool = False
    is_shut_down: bool = False
    output_handler: "asyncio.Task[None] | None" = None
    has_logged_a_traceback: bool = False

    def __post_init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._has_ended = asyncio.Event()
        self.running = 0

    def die(self) -> None:
        """The engine process ends: whatever runs raises, as vLLM's EngineDeadError does."""
        self.errored = True
        self.may_go_on.set()

    def shutdown(self) -> None:
        """End the engine process; called on a thread. vLLM cancels its reader only later."""
        self.is_shut_down = True
        if self.output_handler is not None:
            self.output_handler.get_loop().call_soon_threadsafe(self._has_ended.set)

    async def _read_outputs(self) -> None:
        """Take the end of the engine process for a failure, as vLLM's task does."""
        await self._has_ended.wait()
        self.has_logged_a_traceback = True

    async def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> AsyncGenerator[FakeOutput, None]:
        if self.refusal is not None:
            raise self.refusal
        self.output_handler = self.output_handler or asyncio.create_task(self._read_outputs())
        self.prompts.append(prompt["prompt_token_ids"])
        self.params.append(sampling_params)
        self.running += 1
        try:
            async for output in self._outputs(prompt["prompt_token_ids"], sampling_params):
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        finally:
            self.running -= 1

    async def _outputs(self, prompt: Sequence[int], params: dict[str, Any]) -> AsyncGenerator[FakeOutput, None]:
        made = self.answer[: params["max_tokens"]]
        for end in range(self.coalesces, len(made) + self.coalesces, self.coalesces):
            await self.may_go_on.wait()
            if self.errored:
                raise RuntimeError("EngineCore encountered an issue.")
            is_first, is_last = end == self.coalesces, end >= len(made)
            new = made[end - self.coalesces : end]
            reason = "length" if end >= params["max_tokens"] else self.finish_reason
            explained = self._explained(prompt, params) if is_first else None
            chosen = (
                None
                if params.get("logprobs") is None
                else [candidates(token_id, params["logprobs"]) for token_id in new]
            )
            yield FakeOutput([FakeCompletion(new, reason if is_last else None, chosen)], explained)
            await asyncio.sleep(0)

    def _explained(
        self, prompt: Sequence[int], params: dict[str, Any]
    ) -> Sequence[dict[int, FakeLogprob] | None] | None:
        top = params.get("prompt_logprobs")
        return None if top is None else [None, *(candidates(token_id, top) for token_id in prompt[1:])]


def candidates(chosen: int, top: int) -> dict[int, FakeLogprob]:
    """The most likely tokens, which are 7, 8, …, and the chosen one, which ranks fifth."""
    found = {7 + place: FakeLogprob(-0.5 - place, 1 + place) for place in range(top)}
    return found | {chosen: FakeLogprob(-4.5, 5)}
