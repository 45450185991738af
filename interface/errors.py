"""The errors between a request and its first event. Every message says what was expected and what came."""


class RequestError(ValueError):
    """A request that this model cannot take; the client has to change it. `param` names the field, if it is one."""

    param: str | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(RequestError):
    """The prompt, or the prompt and its max_tokens, do not fit the context.

    A prompt that is far too long is not tokenized to its end; `prompt_tokens` is then a lower bound.
    """

    def __init__(self, prompt_tokens: int, max_tokens: int, context: int, is_counted: bool = True) -> None:
        self.prompt_tokens, self.max_tokens, self.context = prompt_tokens, max_tokens, context
        self.is_counted = is_counted
        super().__init__(
            f"The prompt has {self.length} tokens and max_tokens is {max_tokens}, together "
            f"{prompt_tokens + max_tokens}; the context holds {context}. Shorten one of them.",
            "prompt",
        )

    @property
    def length(self) -> str:
        """How many tokens the prompt has, in words."""
        return str(self.prompt_tokens) if self.is_counted else f"at least {self.prompt_tokens}"


class UnusablePrompt(RequestError):
    """The model has no token for the prompt, none that it knows, or no chat template to render it with."""


class UnsupportedFeature(RequestError):
    """The request asks for something that this model or this engine cannot do."""


class TooManySequences(RequestError):
    """The request asks for more sequences than there is room for, even when nothing else runs."""

    def __init__(self, sequences: int, capacity: int) -> None:
        super().__init__(
            f"The request asks for {sequences} sequences (its choices for each of its prompts), and this server holds "
            f"{capacity} at once. Ask for fewer choices, or for fewer prompts at a time.",
            "n",
        )


class QueueFull(RuntimeError):
    """Every slot and every place in the queue is taken. `retry_after` is when to come back, in seconds, if known."""

    retry_after: int | None = None

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def check_room(sequences: int, in_flight: int, capacity: int) -> None:
    """Check that there is room for new sequences among those that are running or waiting.

    Raises:
        TooManySequences: there never is room for all of them.
        QueueFull: there is not enough room for all of them just now.
    """
    if sequences > capacity:
        raise TooManySequences(sequences, capacity)
    if in_flight + sequences > capacity:
        raise QueueFull(f"{in_flight} requests are running or waiting, and the limit is {capacity}")


class EngineUnavailable(RuntimeError):
    """There is no engine to ask just now: it is loading, or the service is shutting down."""


class EngineFailed(EngineUnavailable):
    """The engine has failed for good and takes no more requests."""


class LoadError(RuntimeError):
    """The model cannot be served, for a reason that the user can change. The message says what to do."""


class NoThreadToStart(LoadError):
    """The system gives no thread for some work without which there is no engine."""

    def __init__(self, work: str, reason: BaseException | None) -> None:
        super().__init__(
            f"There is no thread to {work}: {reason}. A limit (ulimit -v or -u, a container's) leaves too little."
        )


class UnsupportedModel(LoadError):
    """This engine cannot serve the model: its logits are not the model's own there, for example."""
