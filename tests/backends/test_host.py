"""The engine's end of the socket: messages of workers, wrong ones too, and workers that die or do not read."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends import channel, wire
from backends import host as hosts
from config import Config
from interface.engine import Sink
from interface.errors import LoadError
from interface.events import Finished, Token
from interface.requests import EncodedRequest, GenerationRequest
from study.common.engine import HELLO, ScriptedEngine
from tests.support.asgi_client import until
from tests.support.sharing import RawWorker, hosting
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


def has_ended(worker: RawWorker, sequence_id: int) -> bool:
    return any(isinstance(event, Finished) for event in worker.events(sequence_id))


async def test_a_request_is_accepted_before_its_events_come(path: Path) -> None:
    async with hosting(path):
        worker = RawWorker()
        await worker.greet(path)
        for number in range(1, 20):
            worker.submit(number, "hello", "count 3", first_id=2 * number)
        await until(lambda: all(has_ended(worker, sequence_id) for sequence_id in range(2, 40)))
    for number in range(1, 20):
        accepted = worker.heard.index((worker.answer(number), number))
        assert worker.answer(number) == wire.Accepted([1, 2])
        positions = [
            place
            for place, (message, _) in enumerate(worker.heard)
            if isinstance(message, wire.Events) and any(owner // 2 == number for owner, _ in message.events)
        ]
        assert min(positions) > accepted


async def test_each_worker_gets_its_own_events_although_their_numbers_are_the_same(path: Path) -> None:
    async with hosting(path):
        one, other = RawWorker(), RawWorker()
        for worker, prompt in ((one, "hello"), (other, "count 3")):
            await worker.greet(path)
            worker.submit(1, prompt, first_id=7)
        await until(lambda: has_ended(one, 7) and has_ended(other, 7))
    assert [event.text for event in one.events(7) if isinstance(event, Token)] == HELLO
    assert [event.text for event in other.events(7) if isinstance(event, Token)] == ["0 ", "1 ", "2 "]


async def test_a_step_is_one_message_whatever_the_number_of_streams(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine):
        worker = RawWorker()
        await worker.greet(path)
        engine.hold()
        worker.submit(1, *["count 5"] * 16)
        await until(lambda: engine.counters().running == 16)
        engine.release(1)
        await until(lambda: worker.messages(wire.Events))
        (message,) = worker.messages(wire.Events)
        assert len(message.events) == 16


async def test_there_is_room_for_as_many_as_the_engine_has_for_all_workers_together(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, config = ScriptedEngine(slots=2, max_waiting=2), Config(max_streams=2, max_waiting=2)
    async with hosting(path, engine, config):
        one, other = RawWorker(), RawWorker()
        engine.hold()
        for worker in (one, other):
            await worker.greet(path, config)
        one.submit(1, "hello", "hello", "hello")
        await until(lambda: one.answer(1))
        other.submit(1, "hello", "hello", first_id=1)
        other.submit(2, "hello", first_id=3)
        other.submit(3, "hello", first_id=4)
        await until(lambda: all(other.answer(number) for number in (1, 2, 3)))
        assert isinstance(one.answer(1), wire.Accepted)
        assert [type(other.answer(number)) for number in (1, 2, 3)] == [wire.Refused, wire.Accepted, wire.Refused]
        assert other.answer(1).error == "QueueFull"
        assert engine.prompts == ["hello"] * 4
    assert caplog.records == []


async def test_when_a_worker_dies_its_sequences_are_aborted_and_the_others_go_on(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host:
        victim, other = RawWorker(), RawWorker()
        engine.hold()
        for worker in (victim, other):
            await worker.greet(path)
            worker.submit(1, "count 100", "hello")
        await until(lambda: engine.counters().running == 4)
        victim.channel.cut("killed")
        await until(lambda: host.open_sequences == 2)
        engine.release()
        await until(lambda: has_ended(other, 1) and has_ended(other, 2))
        assert len(engine.aborted) == 2
        assert host.workers == 1


async def test_a_worker_that_dies_while_its_prompt_is_tokenized_leaves_nothing(path: Path) -> None:
    engine = SlowTokenizer()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "hello")
        await until(engine.is_encoding.is_set)
        worker.channel.cut("killed")
        await until(lambda: host.workers == 0)
        engine.may_encode.set()
        await until(lambda: host.submitting == 0)
        assert host.open_sequences == 0
    assert engine.prompts == []


async def test_an_abort_that_comes_while_the_prompt_is_tokenized_is_in_force(path: Path) -> None:
    engine = SlowTokenizer()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "hello", first_id=5)
        await until(engine.is_encoding.is_set)
        worker.channel.send(wire.Abort(5))
        engine.may_encode.set()
        await until(lambda: host.open_sequences == 0)
    assert engine.prompts == []
    assert worker.events(5) == []


async def test_an_abort_that_comes_together_with_its_request_is_in_force(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "hello", first_id=5)
        worker.channel.send(wire.Abort(5))
        worker.submit(2, "hello", first_id=6)
        await until(lambda: has_ended(worker, 6))
        assert host.open_sequences == host.submitting == 0
    assert len(engine.prompts) == 1
    assert worker.events(5) == []


async def test_an_abort_that_comes_in_the_moment_after_that_is_in_force(path: Path) -> None:
    """The request has been submitted, and what waits for that has yet to be told."""

    class Aborting(ScriptedEngine):
        def submit(self, requests: Sequence[EncodedRequest], sink: Sink) -> None:
            super().submit(requests, sink)
            asyncio.get_running_loop().call_soon(host.hear, wire.Abort(5))

    engine = Aborting()
    engine.hold()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "count 4000", first_id=5, max_tokens=4000)
        await until(lambda: worker.messages(wire.Accepted))
        assert host.open_sequences == 0
        engine.release(1)
        await until(lambda: len(engine.aborted) == 1)


async def test_a_message_that_cannot_be_read_ends_its_request_and_nothing_else(path: Path) -> None:
    async with hosting(path):
        worker = RawWorker()
        await worker.greet(path)
        submit = wire.pack(wire.Submit([], []))[4]  # the kind
        for number, body in enumerate((b"{", b'[{"prompts": []}]', b"\xff\x00"), 50):
            worker.send_raw(wire.HEADER.pack(len(body), submit, number) + body)
        worker.send_raw(wire.HEADER.pack(0, 200, 53))
        worker.submit(1, "hello")
        await until(lambda: has_ended(worker, 1))
        assert [worker.answer(number).error for number in (50, 51, 52, 53)] == ["Malformed"] * 4
        assert not worker.lost


async def test_a_number_that_is_another_sequences_ends_its_request_and_nothing_else(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine):
        one, other = RawWorker(), RawWorker()
        engine.hold()
        for worker in (one, other):
            await worker.greet(path)
            worker.submit(1, "hello")
        await until(lambda: len(engine.numbers) == 2)
        first, second = sorted(engine.numbers)
        for number, sequence_id in enumerate((1, second - first + 1, -1, 2**63), 2):
            one.submit(number, "hello", first_id=sequence_id)
            one.channel.send(wire.Abort(sequence_id if sequence_id != 1 else 2**48))
        one.submit(6, "hello", "hello", first_id=7)
        await until(lambda: all(one.answer(number) for number in range(2, 7)))
        engine.release()
        await until(lambda: has_ended(one, 1) and has_ended(other, 1) and has_ended(one, 8))
    assert [type(one.answer(number)) for number in range(2, 7)] == [wire.Refused] * 4 + [wire.Accepted]
    assert engine.aborted == []


async def test_a_message_that_is_too_long_for_the_other_side_is_not_sent(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel, "MAX_BODY", 20_000)
    engine = ScriptedEngine()
    async with hosting(path, engine):
        worker = RawWorker()
        await worker.greet(path)
        with pytest.raises(ValueError, match="expected a message of at most 20000 bytes, got one of"):
            worker.submit(1, "x" * 20_000)
        worker.submit(2, "size=30000 pace=1", "hello", first_id=2, max_tokens=2000)
        await until(lambda: has_ended(worker, 3) and worker.failures(2) and engine.aborted)
        assert "expected a message of at most 20000 bytes" in worker.failures(2)[0].message
        assert not worker.lost
    assert "An event could not be sent" in caplog.text


async def test_what_is_no_message_at_all_ends_its_connection_and_not_the_engine(path: Path) -> None:
    async with hosting(path) as host:
        stranger, worker = RawWorker(), RawWorker()
        await stranger.greet(path)
        stranger.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: stranger.lost)
        await worker.greet(path)
        worker.submit(1, "hello")
        await until(lambda: has_ended(worker, 1))
        assert host.workers == 1


async def test_requests_before_a_hello_are_not_taken(path: Path) -> None:
    async with hosting(path):
        worker = RawWorker()
        await asyncio.get_running_loop().create_unix_connection(lambda: worker.channel, str(path))
        worker.submit(1, "hello")
        await until(lambda: worker.lost)
        assert worker.heard == []


class Broken(ScriptedEngine):
    """Raises what is not expected when it tokenizes a certain prompt."""

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        if getattr(requests[0].prompt, "text", "") == "break":
            raise ZeroDivisionError("not in the script")
        return super().encode(requests)


async def test_an_error_in_one_request_ends_that_one(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with hosting(path, Broken()) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "break", first_id=1)
        worker.submit(2, "hello", first_id=2)
        await until(lambda: has_ended(worker, 2) and worker.answer(1))
        assert worker.answer(1).error == "ZeroDivisionError"
        assert host.open_sequences == 0
    assert any(record.exc_info for record in caplog.records)


async def test_a_worker_that_does_not_read_never_holds_the_engine_and_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel, "MAX_UNREAD", 4 * 1024 * 1024)
    engine = ScriptedEngine()
    async with hosting(path, engine) as host:
        sleeper, other = RawWorker(), RawWorker()
        await sleeper.greet(path)
        await other.greet(path)
        assert sleeper.channel._transport is not None
        sleeper.channel._transport.pause_reading()
        sleeper.submit(1, "pace=5 size=100000", max_tokens=2000)
        other.submit(1, "count 60")
        await until(lambda: has_ended(other, 1))
        await until(lambda: host.workers == 1)
        await until(lambda: engine.aborted)

    assert any("wait to be read" in record.getMessage() for record in caplog.records)


async def greeted(path: Path) -> RawWorker:
    worker = RawWorker()
    await worker.greet(path)
    return worker


async def test_counters_come_to_every_worker_also_to_those_without_a_stream(path: Path) -> None:
    engine = ScriptedEngine()
    async with hosting(path, engine):
        busy, idle = await greeted(path), await greeted(path)
        engine.hold()
        busy.submit(1, "hello", "hello")
        await until(lambda: idle.messages(wire.Pulse) and idle.messages(wire.Pulse)[-1].counters.running == 2)
        late = RawWorker()
        await late.greet(path)
        await until(lambda: late.messages(wire.Pulse))
        assert late.messages(wire.Pulse)[0].counters.running == 2


async def test_a_token_is_counted_for_every_worker_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PULSE_INTERVAL", 3600.0)
    engine = ScriptedEngine()
    async with hosting(path, engine):
        busy, idle = await greeted(path), await greeted(path)
        engine.hold()
        busy.submit(1, "count 3")
        await until(lambda: idle.messages(wire.Pulse)[-1].counters.running == 1)
        engine.release(1)
        await until(lambda: idle.messages(wire.Pulse)[-1].counters.generated_tokens == 1)


@pytest.mark.parametrize(
    ("config", "protocol", "says"),
    [
        (Config(max_streams=3), wire.PROTOCOL, "ENGINE_MAX_STREAMS is 3 for a worker, and 16 for the engine"),
        (Config(model="another/model"), wire.PROTOCOL, "ENGINE_MODEL is another/model for a worker"),
        (Config(), wire.PROTOCOL + 1, "from the same code"),
    ],
)
async def test_a_worker_that_differs_is_refused_with_what_differs(
    path: Path, config: Config, protocol: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosting(path) as host:
        worker = RawWorker()
        await worker.greet(path, config, protocol)
        await until(lambda: worker.lost)
        (refused,) = worker.messages(wire.Refused)
        error = refused.to_error()
        assert isinstance(error, LoadError)
        assert says in str(error)
        assert host.workers == 0
    assert any(record.levelno == logging.ERROR and says in record.getMessage() for record in caplog.records)


async def test_a_worker_whose_hello_cannot_be_read_is_refused(path: Path) -> None:
    """As from other code, whose messages have other fields."""
    async with hosting(path) as host:
        worker = RawWorker()
        await asyncio.get_running_loop().create_unix_connection(lambda: worker.channel, str(path))
        worker.send_raw(wire.HEADER.pack(2, 0, 0) + b"{}")
        await until(lambda: worker.lost)
        assert "could not read a message of kind 0" in worker.messages(wire.Refused)[0].message
        assert host.workers == 0


async def test_what_is_wrong_with_a_request_is_for_its_client_and_not_for_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hosting(path):
        worker = await greeted(path)
        worker.submit(1, "hello", max_tokens=100_000)
        await until(lambda: worker.answer(1))
        assert worker.answer(1).error == "PromptTooLong"
    assert caplog.records == []


async def test_while_the_engine_is_gone_requests_are_refused_and_its_sequences_take_no_room(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the server elsewhere is lost that the engine's process stands in front of."""
    engine = ScriptedEngine()
    engine.hold()
    async with hosting(path, engine) as host:
        worker = RawWorker()
        await worker.greet(path)
        worker.submit(1, "count 3")
        await until(lambda: host.open_sequences == 1)
        host._on_outage("no server answers")
        assert host.open_sequences == 0
        worker.submit(2, "hello", first_id=2)
        await until(lambda: worker.answer(2))
        assert worker.answer(2) == wire.Refused("EngineUnavailable", "The engine is not available: no server answers")
        late = await greeted(path)
        await until(lambda: late.messages(wire.Outage) == [wire.Outage("no server answers")])
        host._on_outage(None)
        worker.submit(3, "hello", first_id=3)
        engine.release()
        await until(lambda: has_ended(worker, 3))
    assert worker.messages(wire.Outage) == [wire.Outage("no server answers"), wire.Outage(None)]
    assert caplog.records == []


async def test_a_secret_of_the_engine_is_no_business_of_its_workers(path: Path) -> None:
    async with hosting(path, config=Config(backend_key="sk-7f31")) as host:
        worker = RawWorker()
        await worker.greet(path)
        assert host.workers == 1
    assert "sk-7f31" not in str(wire.common_settings(Config(backend_key="sk-7f31")))
