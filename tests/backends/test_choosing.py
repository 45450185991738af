"""The settings choose an engine; those that do not apply to it are refused by name."""

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from backends import load
from backends.own_engine import load_engine
from backends.stepped import SteppedService
from config import BACKENDS, Config, ConfigError
from interface.errors import LoadError
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import until
from tests.support.driving import all_events, driving, submit, terminal


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings that choose a backend which takes a model's name and no more."""
    module: Any = ModuleType("backends.small")
    module.HONOURS = frozenset({"model"})
    module.load = lambda config: SteppedService(ScriptedEngine())
    monkeypatch.setitem(sys.modules, "backends.small", module)
    monkeypatch.setitem(load.MODULES, "small", "backends.small")
    return Config(backend="small", model="some/model")


def test_the_backend_is_loaded_that_was_chosen(chosen: Config) -> None:
    assert load.load_service(chosen).info.context == ScriptedEngine().info.context


@pytest.mark.parametrize(("name", "value"), [("quantize", "int8"), ("max_streams", 3), ("compile", True)])
def test_a_setting_that_means_nothing_to_the_backend_is_refused_by_name(chosen: Config, name: str, value: Any) -> None:
    config = Config(**{"backend": "small", name: value})
    with pytest.raises(LoadError, match=f"ENGINE_{name.upper()}={value} does not apply to ENGINE_BACKEND=small"):
        load.load_service(config)


def test_every_backend_that_can_be_chosen_has_a_module() -> None:
    assert tuple(load.MODULES) == BACKENDS


@pytest.mark.parametrize("module", load.MODULES.values())
def test_what_a_backend_honours_are_settings_for_the_engine(module: str) -> None:
    assert Config().of_engine.keys() >= importlib.import_module(module).HONOURS


def test_a_key_that_does_not_apply_is_refused_without_being_shown(chosen: Config) -> None:
    with pytest.raises(LoadError, match="ENGINE_BACKEND_KEY does not apply") as refused:
        load.load_service(Config(backend="small", backend_key="sk-7f31"))
    assert "sk-7f31" not in str(refused.value)


def test_a_backend_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"ENGINE_BACKEND: expected one of own.*, got 'owl'"):
        Config.from_environment({"ENGINE_BACKEND": "owl"})


@pytest.mark.parametrize("name", ["sglang", "openai"])
def test_an_engine_behind_a_server_needs_that_servers_url(name: str) -> None:
    with pytest.raises(LoadError, match=f"ENGINE_BACKEND={name}: expected ENGINE_BACKEND_URL"):
        load.load_service(Config(backend=name))


def test_callers_that_step_the_engine_themselves_are_told_that_only_ours_can_be_stepped() -> None:
    with pytest.raises(LoadError, match=r"Expected ENGINE_BACKEND=own, .* got vllm"):
        load_engine(Config(backend="vllm"))


class Refusing(SteppedService):
    async def start(self, *callbacks: Any) -> None:
        raise LoadError("Expected an engine, got none.")


@pytest.mark.anyio
async def test_a_service_that_refuses_when_it_is_started_has_failed_to_load(caplog: pytest.LogCaptureFixture) -> None:
    async with driving(ScriptedEngine(), service=Refusing) as driver:
        await until(lambda: driver.vitals().has_failed)
        assert driver.status == "failed to load: Expected an engine, got none."
    assert not any(record.exc_info for record in caplog.records)


class Passing(SteppedService):
    """An engine that can be out of reach for a while."""

    async def start(self, on_events: Any, on_failure: Any, on_outage: Any) -> None:
        self.on_outage = on_outage
        await super().start(on_events, on_failure, on_outage)


@pytest.mark.anyio
async def test_an_outage_ends_the_open_streams_and_requests_are_taken_again_after_it() -> None:
    service = Passing(engine := ScriptedEngine())
    async with driving(engine, service=lambda _: service) as driver:
        await until(lambda: driver.status == "ok")
        engine.hold()
        open_one = await submit(driver)
        service.on_outage("its process has ended")
        assert driver.status == "engine lost: its process has ended"
        assert not driver.vitals().has_failed
        assert "its process has ended" in str(terminal(await all_events(open_one)))
        with pytest.raises(Exception, match="its process has ended"):
            await submit(driver)
        engine.release()
        service.on_outage(None)
        assert driver.status == "ok"
        assert terminal(await all_events(await submit(driver))).index == 0
