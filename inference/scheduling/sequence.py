"""One sequence's state, from its submit to its terminal event: its tokens, its slot, its grammar. No tensors."""

import random
from collections import abc, deque

from inference.scheduling.bans import NO_BANS, Bans, ModelBans
from inference.scheduling.sample_args import LogitBias, RowLogprobs, SampleArgs, TokenCounts
from inference.scheduling.speculation import Drafter
from inference.text.answer import Answer
from interface.engine import Sink
from interface.events import Failed, FailureKind, Finished, FinishReason, Logprobs, PromptEcho, Token
from interface.requests import EncodedRequest


class Sequence:
    """Prompt and output of one sequence. Only the engine's step changes it.

    Args:
        answer: makes text and events out of the tokens.
        bans: what the model's files forbid at some places.
        speculates: guess tokens, unless a grammar, penalties or bans of repeats make each token depend on the ones
            before.
    """

    def __init__(
        self,
        encoded: EncodedRequest,
        sink: Sink,
        answer: Answer,
        bans: ModelBans = NO_BANS,
        speculates: bool = False,
    ) -> None:
        self.sequence_id = encoded.sequence_id
        self.sink = sink
        self.prompt_ids = encoded.prompt_ids
        self.wants_prompt_logprobs = encoded.request.prompt_logprobs
        self._slot: int | None = None
        self.cached_tokens = 0  # how many of its tokens have their keys and values in the cache
        self.output_ids: list[int] = []
        self.draft_ids: list[int] = []  # guesses of its next tokens, which a step computes after its newest one
        self._params = encoded.params
        self._reused_tokens = 0  # how many of its tokens were in the cache, and not computed for it
        self._answer = answer
        self._grammar = answer.grammar
        self._prompt_logprobs: list[RowLogprobs] = []
        self._seen = _seen(encoded)
        self._bias = LogitBias(encoded.params.logit_bias) if encoded.params.logit_bias else None
        # A grammar says by itself where a text may end.
        least = bans.min_tokens(len(encoded.prompt_ids)) if encoded.grammar is None else 0
        self._bans = Bans(bans, encoded.prompt_ids, answer.ends, max(encoded.params.min_tokens, least))
        self._random = random.Random(encoded.params.seed)
        self._uniforms: deque[float] = deque()  # the random numbers of the next tokens, as far as they are drawn
        is_free = self._grammar is None and self._seen is None and not bans.no_repeat
        self._drafter = Drafter(encoded.prompt_ids) if speculates and is_free else None

    @property
    def is_waiting(self) -> bool:
        return self._slot is None

    @property
    def slot(self) -> int:
        """The slot of the cache that it holds, once it has been admitted."""
        assert self._slot is not None, "a waiting sequence has no slot"
        return self._slot

    @property
    def is_prefilled(self) -> bool:
        return self.cached_tokens >= len(self.prompt_ids)

    @property
    def prompt_tokens_left(self) -> int:
        """How much of the prompt has not been prefilled."""
        return max(0, len(self.prompt_ids) - self.cached_tokens)

    @property
    def cached_ids(self) -> list[int]:
        """The tokens whose keys and values its slot holds."""
        return [*self.prompt_ids, *self.output_ids][: self.cached_tokens]

    def admit(self, slot: int, reused_tokens: int = 0) -> None:
        """Take a slot, which holds the keys and values of the prompt's first `reused_tokens` already."""
        self._slot = slot
        self.reuse(reused_tokens)
        self._answer.admit()

    def reuse(self, tokens: int) -> None:
        """Note that the slot has the keys and values of the prompt's first tokens, without having computed them."""
        self.cached_tokens = self._reused_tokens = tokens

    def draft(self, most: int) -> None:
        """Guess at most `most` of the next tokens."""
        if self._drafter is not None:
            self.draft_ids = self._drafter.guess(min(most, self._params.max_tokens - len(self.output_ids) - 1))

    def sample_args(self) -> list[SampleArgs]:
        """Return the sampler's input for the next token and for the one after each guess."""
        return [self._sample_args(ahead) for ahead in range(1 + len(self.draft_ids))]

    def _sample_args(self, ahead: int) -> SampleArgs:
        params = self._params
        return SampleArgs(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            uniform=self._uniform(ahead),
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            seen=self._seen,
            bias=self._bias,
            banned_ids=self._bans.after([*self.output_ids, *self.draft_ids[:ahead]] if ahead else self.output_ids),
            mask=None if self._grammar is None else self._grammar.mask(),
            logprobs=params.logprobs,
        )

    def _uniform(self, ahead: int) -> float:
        """Return the random number of the token that comes `ahead` tokens after the next one."""
        while len(self._uniforms) <= ahead:
            self._uniforms.append(self._random.random())
        return self._uniforms[ahead]

    @property
    def grammar_error(self) -> str | None:
        """The reason why the grammar allows no token, if it allows none."""
        return None if self._grammar is None else self._grammar.error

    @property
    def prompt_top_logprobs(self) -> int:
        """How many of the most likely tokens are reported for each token of the prompt."""
        return self._params.logprobs or 0

    def add_prompt_logprobs(self, logprobs: abc.Sequence[RowLogprobs]) -> None:
        """Add the log probabilities of the prompt's next tokens. The prompt's first token has none."""
        self._prompt_logprobs += logprobs

    def append(self, token_id: int, logprobs: RowLogprobs | None = None) -> tuple[Token, FinishReason | None]:
        """Append the next token; return its event, and the finish reason if the sequence ends with it."""
        self.output_ids.append(token_id)
        if self._uniforms:
            self._uniforms.popleft()
        if self._drafter is not None and self._drafter.add(token_id):
            self.cached_tokens += 1  # a step has computed it already
        if self._seen is not None:
            self._seen.add(token_id)
        return self._answer.append(token_id, None if logprobs is None else self._with_text(token_id, logprobs))

    def prompt_echo(self) -> PromptEcho | None:
        """Return the event that repeats the prompt, if the request asked for it."""
        return self._answer.echo(
            [
                self._with_text(self.prompt_ids[place], logprobs)
                for place, logprobs in enumerate(self._prompt_logprobs, start=1)
            ]
        )

    def finish(self, reason: FinishReason) -> Finished:
        """Return the terminal event, as of now."""
        return self._answer.finish(reason, self._reused_tokens)

    def fail(self, message: str, kind: FailureKind = "engine_error") -> Failed:
        """Return the terminal event of a sequence that the engine could not finish."""
        return self._answer.fail(message, kind)

    def _with_text(self, token_id: int, logprobs: RowLogprobs) -> Logprobs:
        describe = self._answer.describe
        top = tuple(describe(*alternative) for alternative in logprobs.top)
        return Logprobs(describe(token_id, logprobs.chosen), top)


def _seen(encoded: EncodedRequest) -> TokenCounts | None:
    """Counts of the tokens that penalties apply to, if there are penalties."""
    params = encoded.params
    if params.repetition_penalty != 1:
        return TokenCounts(encoded.prompt_ids)
    return TokenCounts() if params.presence_penalty or params.frequency_penalty else None
