"""Why a request is not taken, and what its client is told: always before a stream starts, so always as JSON."""

from contract.answers import Answer, json_answer, unavailable
from interface.request import EngineUnavailable, PromptTooLong, QueueFull, UnusablePrompt


class Refusal(Exception):
    """A request that the contract itself turns down."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


REFUSALS: tuple[type[Exception], ...] = (Refusal, PromptTooLong, UnusablePrompt, QueueFull, EngineUnavailable)
"""All that `refusal` has an answer to."""


def refusal(error: Exception) -> Answer:
    """The answer to a request that one of `REFUSALS` has ended."""
    match error:
        case Refusal():
            return error.answer
        case PromptTooLong():
            problem = {"type": "context_length", "loc": ["body", "prompt"], "msg": str(error)}
            return json_answer(422, {"detail": [problem | {"input": error.prompt_tokens + error.max_tokens}]})
        case UnusablePrompt():
            problem = {"type": "unusable_prompt", "loc": ["body", "prompt"], "msg": str(error)}
            return json_answer(422, {"detail": [problem | {"input": None}]})
        case QueueFull() | EngineUnavailable():
            return unavailable(str(error))
    raise TypeError(f"expected one of REFUSALS, got {error!r}")
