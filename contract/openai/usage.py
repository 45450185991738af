"""How many tokens an answer took: `usage`, in the form of completions and chat completions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contract.answers import Wire
from interface.events import Finished


@dataclass(frozen=True, slots=True)
class PromptTokensDetails(Wire):
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class CompletionTokensDetails(Wire):
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class CompletionUsage(Wire):
    """A prompt counts once, however many choices are made of it; all choices' tokens are added up."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def usage(finished: Mapping[int, Finished], n: int) -> CompletionUsage:
    """Count the tokens of finished sequences, by their index; `n` of them share a prompt.

    What the second choice of a prompt found in the cache is what the first one put there, so only the first counts.
    """
    first = [end for index, end in finished.items() if index % n == 0]
    prompt_tokens = sum(end.prompt_tokens for end in first)
    completion_tokens = sum(end.completion_tokens for end in finished.values())
    return CompletionUsage(
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        PromptTokensDetails(sum(end.cached_tokens for end in first)),
        CompletionTokensDetails(sum(end.reasoning_tokens for end in finished.values())),
    )


def usage_so_far(prompt_tokens: Sequence[int], n: int, completion_tokens: int) -> CompletionUsage:
    """The count in the middle of a stream. What was cached, and what was reasoning, is known only at the end."""
    prompts = sum(prompt_tokens[::n])
    details = PromptTokensDetails(0), CompletionTokensDetails(0)
    return CompletionUsage(prompts, completion_tokens, prompts + completion_tokens, *details)
