"""deploy/ray_serve.py and its configuration file, without Ray: a stand-in records what Ray is asked for.

`make test-scale` runs them on the real one.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from backends.stepped import SteppedService
from config import Config
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE, Client, lifespan, until

ROOT = Path(__file__).parents[2]


class Asked:
    """Stands for whatever Ray makes of its arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options

    def bind(self, *arguments: Any) -> "Asked":
        return Asked(*arguments, **self.options)


@pytest.fixture
def ray_serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file as a module, with the stand-in in the place of Ray."""
    ray, config = ModuleType("ray"), ModuleType("ray.serve.config")
    vars(ray)["serve"] = SimpleNamespace(deployment=Asked, ingress=lambda: lambda replica: replica)
    vars(config).update(AutoscalingConfig=dict, RequestRouterConfig=dict)
    for name, module in (("ray", ray), ("ray.serve", vars(ray)["serve"]), ("ray.serve.config", config)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    yield importlib.import_module("deploy.ray_serve")
    del sys.modules["deploy.ray_serve"]


def built(ray_serve: Any, **arguments: Any) -> Asked:
    made: Asked = ray_serve.build(ray_serve.Arguments(**arguments))
    return made


def scripted(config: Config) -> SteppedService:
    return SteppedService(ScriptedEngine())


def test_without_ray_one_line_says_what_to_do() -> None:
    program = "import sys; sys.modules['ray'] = None; import deploy.ray_serve"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: expected Ray Serve, got: ")
    assert "requirements/ray.txt" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_rays_limit_lies_above_that_of_the_door(ray_serve: Any) -> None:
    options = built(ray_serve).options
    assert options["max_ongoing_requests"] > Config().max_streams + Config().max_waiting
    assert options["num_replicas"] == 1


def test_replicas_are_added_when_there_are_more_streams_than_slots(
    ray_serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_MAX_STREAMS", "5")
    options = built(ray_serve, replicas=2, max_replicas=4).options
    assert options["autoscaling_config"]["target_ongoing_requests"] == 5
    assert (options["autoscaling_config"]["min_replicas"], options["autoscaling_config"]["max_replicas"]) == (2, 4)
    assert "num_replicas" not in options


def test_sessions_are_rays_unless_haproxy_has_them(ray_serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ConsistentHash" in built(ray_serve).options["request_router_config"]["request_router_class"]
    assert "request_router_config" not in built(ray_serve, sessions=False).options
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    assert "request_router_config" not in built(ray_serve).options


def test_a_replica_per_gpu_is_asked_for_as_such(ray_serve: Any) -> None:
    assert built(ray_serve, gpus=1, cpus=4).options["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 1}


def test_the_configuration_file_gives_what_the_file_takes(ray_serve: Any) -> None:
    (application,) = yaml.safe_load((ROOT / "deploy" / "ray_serve.yaml").read_text())["applications"]
    assert application["import_path"] == "deploy.ray_serve:build"
    ray_serve.Arguments(**application["args"])
    Config.from_environment(application["runtime_env"]["env_vars"])


def test_a_door_that_cannot_be_served_is_refused(ray_serve: Any) -> None:
    with pytest.raises(ValueError, match="pattern"):
        ray_serve.Arguments(door="raw_wsgi")


@pytest.mark.anyio
@pytest.mark.parametrize("door", ["app", "raw_asgi"])
async def test_a_replica_is_healthy_from_its_lifespan_until_its_engine_fails(ray_serve: Any, door: str) -> None:
    replica = ray_serve.Replica(door, f"{__name__}:scripted")
    with pytest.raises(RuntimeError, match="lifespan"):
        await replica.check_health()
    app = replica.__serve_build_asgi_app__()
    async with lifespan(app):
        await replica.check_health()
        assert (await Client(app).post(prompt="hello")).status == 200
        await Client(app).post(prompt="explode")
        await until(lambda: replica.driver.status != "ok", "the failure")
        with pytest.raises(RuntimeError, match="engine failed: RuntimeError: the script says so"):
            await replica.check_health()
