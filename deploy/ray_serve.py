"""Replicas of a door on Ray Serve, each with an engine of its own; the door is the same as on one machine.

    make .venv-ray
    .venv-ray/bin/ray start --head
    .venv-ray/bin/serve run deploy.ray_serve:build door=app replicas=3      # or: serve run deploy/ray_serve.yaml

The engine's settings are its ENGINE_ variables, as everywhere. Nothing imports this file; docs/scale.md says more.
"""

import asyncio
import importlib
import os
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from config import Config
from serving.driver import Driver

try:
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig
except ModuleNotFoundError as error:
    raise SystemExit(f"error: expected Ray Serve, got: {error}; see requirements/ray.txt") from None

SESSIONS = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
"""Requests with the same `x-session-id` go to the same replica, where the conversation is in the cache. HAProxy does so
with RAY_SERVE_HAPROXY_BALANCE_ALGORITHM="hdr(x-session-id)" in its environment; Ray refuses a router there."""
LONGEST_ANSWER = 120.0
"""Seconds that open streams get before a replica is stopped. Ray cuts off what is open after them."""
PROBES = 16
"""Requests to /health and the like that a replica takes when its queue is full."""


class Arguments(BaseModel):
    """What `serve run deploy.ray_serve:build name=value …` takes."""

    model_config = ConfigDict(extra="forbid")

    door: str = Field("app", pattern="^(app|raw_asgi)$")
    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, description="With it, replicas are added as streams fill their slots.")
    gpus: float = Field(0, ge=0, description="GPUs of each replica; 1 is a replica per GPU.")
    cpus: float = Field(1, gt=0, description="Cores of each replica, and so torch's threads (OMP_NUM_THREADS).")
    sessions: bool = Field(True, description="If false, a request goes to the less busy of two replicas.")
    load: str = Field("backends.load:load_service", description="The function that makes an engine of the settings.")


class Replica:
    """One replica. Ray takes it for ready when `__init__` has returned, so the model is loaded there."""

    def __init__(self, door: str, load: str) -> None:
        config = Config.from_environment()
        module, _, function = load.partition(":")
        service = getattr(importlib.import_module(module), function)(config)
        self.driver = Driver(config, lambda config: service)
        self.door = door

    def __serve_build_asgi_app__(self) -> Any:
        return importlib.import_module(self.door).create_app(self.driver)

    async def check_health(self) -> None:
        """Raise unless requests are taken: Ray then replaces the replica."""
        while self.driver.status == "loading":  # noqa: ASYNC110  (the loaded engine is about to be started)
            await asyncio.sleep(0.01)
        if self.driver.status != "ok":
            raise RuntimeError(self.driver.status)


def build(arguments: Arguments) -> Any:
    """Return the application. Ray calls this with the arguments of the command line or the configuration file."""
    config = Config.from_environment()
    options: dict[str, Any] = {}
    if arguments.max_replicas is None:
        options["num_replicas"] = arguments.replicas
    else:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=arguments.replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=config.max_streams,  # an open stream is one ongoing request
            upscale_delay_s=5,
        )
    if arguments.sessions and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        options["request_router_config"] = RequestRouterConfig(request_router_class=SESSIONS)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="door",
        max_ongoing_requests=config.max_streams + config.max_waiting + PROBES,  # the door itself answers with a 503
        graceful_shutdown_timeout_s=LONGEST_ANSWER,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
        **options,
    )
    return deployment.bind(arguments.door, arguments.load)
