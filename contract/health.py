"""The state of the service: `GET /health` for readiness, `GET /live` for liveness, `GET /metrics` for Prometheus."""

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field

from contract.answers import Answer, to_json
from interface.vitals import Vitals

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Health(BaseModel):
    """Whether the service takes requests, and how busy it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    status: str = Field(description='"ok", or the reason why it takes no requests.')
    model: str
    running: int = Field(description="Sequences that hold a slot.")
    waiting: int = Field(description="Sequences that wait for a slot.")
    generated_tokens: int = Field(description="Tokens made since the start.")
    transcript: bool = Field(description="Whether `/transcript/{request_id}` shows the messages of a request.")


class Live(BaseModel):
    """Whether the process works, or needs a restart."""

    model_config = ConfigDict(extra="forbid", strict=True)

    status: str = Field(description='"alive", or what has failed for good.')


def health(vitals: Vitals) -> Answer:
    """200 when `status` is "ok"; any other status is the reason for a 503."""
    content = Health(
        status=vitals.status,
        model=vitals.model,
        running=vitals.counters.running,
        waiting=vitals.counters.waiting,
        generated_tokens=vitals.counters.generated_tokens,
        transcript=vitals.transcript,
    )
    return Answer(200 if vitals.status == "ok" else 503, to_json(content))


def live(vitals: Vitals) -> Answer:
    """200 unless something has failed for good: also while the model loads, and while the server ends."""
    if vitals.has_failed:
        return Answer(503, to_json(Live(status=vitals.status)))
    return Answer(200, to_json(Live(status="alive")))


def metrics(vitals: Vitals) -> Answer:
    return Answer(200, vitals.metrics(), METRICS_MEDIA_TYPE)


REPORTS: dict[str, Callable[[Vitals], Answer]] = {"/health": health, "/live": live, "/metrics": metrics}
"""The paths that a door answers from its driver's vitals."""
