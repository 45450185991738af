"""Either door on Ray Serve, unchanged: streams, leaving, sessions, replicas that die, deployments, scaling."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from study.scale.client import Outcome, generation, health, streams
from study.scale.cluster import Cluster

pytestmark = pytest.mark.anyio
PATIENCE = 60.0
SLOW = "study.scale.engine:slowly_loaded"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until a condition holds; other processes have no way to tell."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until_replicas(ray: Cluster, are_right: Callable[[set[int]], bool]) -> None:
    """Wait until the processes of the replicas are those that they should be."""

    async def look() -> bool:
        return are_right(set(ray.processes()["replica"]))

    await until(look)


async def until_idle(port: int, session: str) -> int:
    """Wait until the replica of a session has nothing to do; the tokens that it has made."""

    async def is_idle() -> bool:
        state = await health(port, session)
        return bool(state["running"] + state["waiting"] == 0)

    await until(is_idle)
    tokens: int = (await health(port, session))["generated_tokens"]
    return tokens


async def until_answered(port: int, session: str = "") -> None:
    async def is_answered() -> bool:
        return (await generation(port, "hello", session).run()).kind == "finished"

    await until(is_answered)


@pytest.fixture(scope="module", params=["app", "raw_asgi"])
def deployed(ray: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """Two replicas of a door."""
    ray.deploy(request.param, replicas=2)
    return ray


async def test_streams_arrive_event_by_event(deployed: Cluster) -> None:
    outcome = await generation(deployed.port, "drip 60", max_tokens=60).run()
    assert outcome.kind == "finished"
    assert len(outcome.events) == 61
    assert len(set(outcome.events_at)) >= 30
    assert outcome.events_at[-1] - outcome.events_at[0] > 0.15  # the engine takes 0.3 s for them


async def test_a_disconnect_reaches_the_replicas_engine(deployed: Cluster) -> None:
    before = await until_idle(deployed.port, "leaver")
    async with streams([generation(deployed.port, "pace=10", "leaver", max_tokens=4000)]):
        assert (await health(deployed.port, "leaver"))["running"] == 1
    assert await until_idle(deployed.port, "leaver") - before < 4000


async def test_requests_of_a_session_go_to_one_replica(deployed: Cluster) -> None:
    for session in ("a", "b", "c", "d"):
        made = await until_idle(deployed.port, session)
        for _ in range(6):
            await generation(deployed.port, "hello", session, stream=False).run()
        assert await until_idle(deployed.port, session) == made + 6 * 4  # "hello" is four tokens


async def test_what_is_refused_is_refused_by_the_door_and_not_by_ray(deployed: Cluster) -> None:
    async def is_full() -> bool:
        return bool((await health(deployed.port, "full"))["waiting"] == 64)

    too_much = [generation(deployed.port, "pace=20", "full", max_tokens=200) for _ in range(16 + 64)]
    async with streams(too_much[:16]):
        waiting = [asyncio.create_task(client.run()) for client in too_much[16:]]
        await until(is_full)
        refused = await generation(deployed.port, "hello", "full").run()
        for task in waiting:
            task.cancel()
    assert refused.status == 503
    assert b"the limit is 80" in refused.body
    await until_idle(deployed.port, "full")  # the next test's streams must find room


async def test_when_a_replica_is_killed_its_clients_can_tell_and_another_takes_its_place(deployed: Cluster) -> None:
    clients = [generation(deployed.port, "pace=20", f"s{n}", max_tokens=300) for n in range(12)]
    async with streams(clients) as tasks:
        killed = deployed.kill("replica")
        await until_answered(deployed.port)
        kinds = [outcome.kind for outcome in await asyncio.gather(*tasks)]
    assert set(kinds) <= {"finished", "told of an error", "cut off"}
    assert "finished" in kinds
    assert len(set(kinds)) > 1
    await until_replicas(deployed, lambda now: len(now) == 2 and killed not in now)


async def test_a_replica_whose_engine_has_failed_is_replaced(deployed: Cluster) -> None:
    before = set(deployed.processes()["replica"])
    outcome = await generation(deployed.port, "explode", "bad").run()
    assert outcome.kind == "told of an error"
    await until_replicas(deployed, lambda now: len(now) == 2 and len(now - before) == 1)
    await until_answered(deployed.port, "bad")


async def test_a_redeployment_to_the_other_door_loses_no_request(ray: Cluster) -> None:
    """The new engine takes seconds to load; until then the old replicas answer, and no client hears of loading."""
    await asyncio.to_thread(ray.deploy, "app", replicas=2)
    old = set(ray.processes()["replica"])
    outcomes: list[Outcome] = []
    is_over = asyncio.Event()

    async def ask_on() -> None:
        while not is_over.is_set():
            outcomes.append(await generation(ray.port, "drip 20", max_tokens=20).run())

    async with streams([generation(ray.port, "pace=20", f"long{n}", max_tokens=250) for n in range(4)]) as tasks:
        asking = [asyncio.create_task(ask_on()) for _ in range(4)]
        await asyncio.to_thread(ray.deploy, "raw_asgi", replicas=2, load=SLOW)
        outcomes += await asyncio.gather(*tasks)
        is_over.set()
        await asyncio.gather(*asking)
    assert len(outcomes) > 40
    assert {outcome.kind for outcome in outcomes} == {"finished"}
    await until_replicas(ray, lambda now: len(now) == 2 and not now & old)


async def test_replicas_are_added_when_streams_have_taken_the_slots(ray: Cluster) -> None:
    await asyncio.to_thread(ray.deploy, "app", replicas=1, max_replicas=3)
    assert len(ray.processes()["replica"]) < 3
    clients = [generation(ray.port, "pace=50", f"s{n}", max_tokens=4000) for n in range(16)]
    asked_too_late = [generation(ray.port, "pace=50", f"t{n}", max_tokens=4000) for n in range(26)]
    async with streams(clients):
        waiting = [asyncio.create_task(client.run()) for client in asked_too_late]
        await until_replicas(ray, lambda now: len(now) == 3)
        for task in waiting:
            task.cancel()


async def test_the_configuration_file_serves_the_bundled_model(ray: Cluster) -> None:
    await asyncio.to_thread(ray.deploy_file, "deploy/ray_serve.yaml")

    async def answers_with_the_model() -> bool:
        outcome = await generation(ray.port, "What is 2 + 2?", temperature=0).run()
        return "The answer is 4" in "".join(event.get("token", "") for event in outcome.events)

    await until(answers_with_the_model)
