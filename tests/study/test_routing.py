"""The simulation of routers: its replicas take as long as ours, and no request is lost or invented."""

import shutil
import sys
from pathlib import Path

import pytest
import simpy

from study.routing import __main__ as routing
from study.routing.load import ANSWER, Outcome, conversations, simulate
from study.routing.replicas import SLOTS, SYSTEM, Replica, Request, step_seconds
from study.routing.routers import ROUTERS

REPLICAS = 6
LOAD = conversations(REPLICAS, per_replica=1.0, seconds=20, seed=3)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {name: simulate(name, LOAD, REPLICAS) for name in ROUTERS}


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_ends_once(outcomes: dict[str, Outcome], router: str) -> None:
    requests = outcomes[router].requests
    assert len(requests) == sum(len(conversation.questions) for conversation in LOAD)
    assert {request.ends for request in requests} == {1}
    assert {request.to_prefill for request in requests} == {0}
    assert {request.to_decode for request in requests} == {0}


@pytest.mark.parametrize("router", ROUTERS)
def test_a_turn_begins_after_the_answer_before_it(outcomes: dict[str, Outcome], router: str) -> None:
    for request in outcomes[router].requests:
        assert request.first_token_at is not None
        assert request.asked_at < request.first_token_at
        assert 0 <= request.cached < request.prompt


@pytest.mark.parametrize("router", ROUTERS)
def test_no_replica_has_more_streams_than_slots(outcomes: dict[str, Outcome], router: str) -> None:
    assert 0 < max(replica.most_running for replica in outcomes[router].replicas) <= SLOTS
    assert {replica.open for replica in outcomes[router].replicas} == {0}


def test_all_routers_get_the_same_requests(outcomes: dict[str, Outcome]) -> None:
    by_router = {
        name: sorted((request.session, request.prompt, request.answer) for request in outcome.requests)
        for name, outcome in outcomes.items()
    }
    assert all(requests == by_router["round robin"] for requests in by_router.values())


def test_the_more_a_router_knows_of_prefixes_the_more_of_them_are_in_the_cache(outcomes: dict[str, Outcome]) -> None:
    rates = {name: outcome.hit_rate for name, outcome in outcomes.items()}
    assert rates["round robin"] < rates["session"] < rates["prefix"]
    assert outcomes["prefix"].cost < outcomes["round robin"].cost


def test_one_replica_has_the_same_cache_whatever_the_router() -> None:
    load = conversations(1, per_replica=0.5, seconds=20, seed=3)
    assert len({simulate(name, load, 1).hit_rate for name in ROUTERS}) == 1


@pytest.mark.parametrize("router", ROUTERS)
def test_the_same_seed_gives_the_same_figures(outcomes: dict[str, Outcome], router: str) -> None:
    assert simulate(router, LOAD, REPLICAS).row() == outcomes[router].row()


def test_a_simulated_step_takes_as_long_as_a_measured_one() -> None:
    assert step_seconds(8) == 8.9e-3
    assert step_seconds(12) == pytest.approx((8.9e-3 + 10.7e-3) / 2)


def test_a_replica_makes_about_as_many_tokens_as_the_measured_one() -> None:
    """16 streams of 75 prompt tokens and 64 new ones each: 835 tokens per second, says docs/engine-speed.md."""
    env = simpy.Environment()
    replica = Replica(env)
    requests = [Request(n, n, 75, 64, 0.0, env.event()) for n in range(16)]
    for request in requests:
        replica.submit(request)
    env.run()
    assert 16 * 64 / env.now == pytest.approx(835, rel=0.15)


def test_a_conversation_finds_all_that_was_said_before_in_its_slot() -> None:
    env = simpy.Environment()
    replica = Replica(env)
    first = Request(7, 1, SYSTEM + 60, ANSWER, 0.0, env.event())
    replica.submit(first)
    env.run()
    other = Request(8, 1, SYSTEM + 60, ANSWER, env.now, env.event())
    second = Request(7, 1, SYSTEM + 60 + ANSWER + 30, ANSWER, env.now, env.event())
    replica.submit(other)
    replica.submit(second)
    env.run()
    assert (first.cached, other.cached, second.cached) == (0, SYSTEM, SYSTEM + 60 + ANSWER)


def test_only_a_run_without_options_writes_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = Path(shutil.copy(routing.PAGE, tmp_path))
    before = page.read_text()
    monkeypatch.setattr(routing, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["routing", "--replicas", "2", "--seconds", "1"])
    routing.main()
    assert page.read_text() == before
    monkeypatch.setattr(sys, "argv", ["routing"])
    monkeypatch.setattr(routing, "conversations", lambda number, *_: conversations(2, 0.9, 1, 1))
    monkeypatch.setattr(routing, "simulate", lambda router, load, number: simulate(router, load, 2))
    routing.main()
    assert page.read_text() != before
