"""`GET /health`: whether the service takes requests."""

from pydantic import BaseModel, ConfigDict, Field

from contract.answers import Answer, to_json
from interface.engine import Counters


class Health(BaseModel):
    """Whether the service takes requests, and how busy it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    status: str = Field(description='"ok", or the reason why it takes no requests.')
    model: str
    running: int = Field(description="Sequences that hold a slot.")
    waiting: int = Field(description="Sequences that wait for one.")
    generated_tokens: int = Field(description="Tokens made since the start.")


def health(status: str, model: str, counters: Counters) -> Answer:
    """200 when `status` is "ok"; any other status is the reason for a 503."""
    content = Health(
        status=status,
        model=model,
        running=counters.running,
        waiting=counters.waiting,
        generated_tokens=counters.generated_tokens,
    )
    return Answer(200 if status == "ok" else 503, to_json(content))
