"""The experiments that are run on each server, and their results.

Every experiment but the last runs on the paced engine, so that only the servers differ; `article` runs on the bundled
model. An experiment ends when the server is idle again, so that all begin alike.
"""

import asyncio
import time
from dataclasses import dataclass

from study.common.client import LoadFailed, Pulse, Pulses, Stream, ask_health, asking, stream, whole
from study.compare.servers import Server

LEAVE_AFTER = 5
LEAVE_AFTER_STEPS = 10
LEAVE_PREFILL_STEPS = 100
STUCK_TOKEN_BYTES = 16_000
PULSE_SECONDS = 0.025
IDLE_LIMIT = 60.0
AT_ONCE = "pace=0"


@dataclass(frozen=True)
class Sizes:
    """How much of everything; times in milliseconds, counts in tokens unless said otherwise."""

    pace: int
    prefill_steps: int
    one: int
    many: dict[int, int]  # how many streams at once: tokens of each
    left: int
    stuck: int
    stuck_pace: int
    stuck_seconds: float
    cost: dict[int, int]  # how many streams at once: tokens of each
    article: int


FULL = Sizes(
    pace=10,
    prefill_steps=30,
    one=40,
    many={8: 40, 64: 8},
    left=200,
    stuck=2500,
    stuck_pace=2,
    stuck_seconds=4,
    cost={1: 20_000, 16: 1_000},
    article=100,
)
QUICK = Sizes(
    pace=5,
    prefill_steps=10,
    one=10,
    many={4: 5, 20: 3},
    left=100,
    stuck=600,
    stuck_pace=1,
    stuck_seconds=0.5,
    cost={1: 500, 4: 100},
    article=10,
)


@dataclass(frozen=True)
class Together:
    """Streams that were started at the same moment, and /health meanwhile. Times count from that moment."""

    streams: list[Stream]
    pulses: list[Pulse]
    longest_wait: float

    @property
    def last_first_token(self) -> float:
        return max(stream.tokens_at[0] for stream in self.streams)

    @property
    def end(self) -> float:
        return max(stream.ended_at for stream in self.streams)


@dataclass(frozen=True)
class Departure:
    """A client that left: the tokens that were made for it in all, and when its request was out of the engine."""

    tokens_made: int
    freed_after: float


@dataclass(frozen=True)
class Left:
    """Clients that left, one after the other; `during_another` is the tokens made for one that was not alone."""

    after_tokens: Departure
    during_another: int
    in_prefill: Departure
    unstreamed: Departure


@dataclass(frozen=True)
class Stuck:
    """A client that stopped reading and stayed. `freed_after` is None if its request was still held at the end."""

    tokens_made: int
    longest_wait: float
    freed_after: float | None


@dataclass(frozen=True)
class Article:
    """The figures of the article's table: a stream, the same unstreamed, /health meanwhile, a client that leaves."""

    stream: Together
    unstreamed: Stream
    left: Departure


@dataclass(frozen=True)
class Figures:
    """Everything about one server on the paced engine."""

    one: Together
    many: dict[int, Together]
    left: Left
    stuck: Stuck
    cost: dict[int, float | None]  # microseconds of processor time per token, by streams at once


async def figures(server: Server, sizes: Sizes) -> Figures:
    one_prompt = f"pace={sizes.pace} prefill={sizes.prefill_steps}"
    await stream(server.target, AT_ONCE, 1)  # whatever a server does only once is not what is measured
    return Figures(
        one=await together(server, 1, one_prompt, sizes.one),
        many={count: await together(server, count, f"pace={sizes.pace}", each) for count, each in sizes.many.items()},
        left=await left(server, sizes),
        stuck=await stuck(server, sizes),
        cost={count: await cost(server, count, each) for count, each in sizes.cost.items()},
    )


async def together(server: Server, count: int, prompt: str, tokens: int) -> Together:
    """Start `count` streams at once, and ask for /health meanwhile."""
    async with Pulses(server.target, PULSE_SECONDS) as pulses:
        began = time.perf_counter()
        streams = await asyncio.gather(*(streamed(server, prompt, tokens) for _ in range(count)))
    await until_idle(server)
    return Together(
        [moment.since(began) for moment in streams],
        [moment.since(began) for moment in pulses.pulses],
        pulses.longest_wait,
    )


async def streamed(server: Server, prompt: str, tokens: int) -> Stream:
    """A whole stream.

    Raises:
        LoadFailed: it was refused, or has not as many tokens as were asked for.
    """
    received = await stream(server.target, prompt, tokens)
    if len(received.tokens_at) != tokens:
        raise LoadFailed(f"expected {tokens} tokens, got {len(received.tokens_at)}")
    return received


async def left(server: Server, sizes: Sizes) -> Left:
    paced = f"pace={sizes.pace}"
    prefilling = f"pace={sizes.pace} prefill={LEAVE_PREFILL_STEPS}"
    return Left(
        after_tokens=await left_after_tokens(server, paced, sizes.left),
        during_another=await _left_during_another(server, paced, sizes.left),
        in_prefill=await _left_after_steps(server, prefilling, sizes, stream=True),
        unstreamed=await _left_after_steps(server, paced, sizes, stream=False),
    )


async def left_after_tokens(server: Server, prompt: str, tokens: int) -> Departure:
    """Leave after `LEAVE_AFTER` tokens."""
    before = await until_idle(server)
    async with asking(server.target, server.target.body(prompt, tokens)) as exchange:
        await exchange.read_tokens(LEAVE_AFTER)
    return await _departure(server, before)


async def _left_during_another(server: Server, prompt: str, tokens: int) -> int:
    """Leave after `LEAVE_AFTER` tokens, while another client's stream continues."""
    before = await until_idle(server)
    other = asyncio.create_task(streamed(server, prompt, tokens))
    async with asking(server.target, server.target.body(prompt, tokens)) as exchange:
        await exchange.read_tokens(LEAVE_AFTER)
    await other
    return await until_idle(server) - before - tokens


async def _left_after_steps(server: Server, prompt: str, sizes: Sizes, stream: bool) -> Departure:
    before = await until_idle(server)
    async with asking(server.target, server.target.body(prompt, sizes.left, stream)):
        await asyncio.sleep(sizes.pace * LEAVE_AFTER_STEPS / 1000)
    return await _departure(server, before)


async def _departure(server: Server, before: int) -> Departure:
    left_at = time.perf_counter()
    after = await until_idle(server)
    return Departure(after - before, time.perf_counter() - left_at)


async def stuck(server: Server, sizes: Sizes) -> Stuck:
    """Read a little, then nothing, but stay connected; ask for /health meanwhile."""
    before = await until_idle(server)
    prompt = f"pace={sizes.stuck_pace} size={STUCK_TOKEN_BYTES}"
    async with (
        Pulses(server.target, PULSE_SECONDS) as pulses,
        asking(server.target, server.target.body(prompt, sizes.stuck), receive_buffer=1 << 16) as exchange,
    ):
        await exchange.read_tokens(LEAVE_AFTER)
        stopped_at = time.perf_counter()
        await asyncio.sleep(sizes.stuck_seconds)
        left_at = time.perf_counter()
    freed_at = [
        pulse.answered_at
        for pulse in pulses.pulses
        if stopped_at < pulse.asked_at and pulse.answered_at < left_at and pulse.health.running == 0
    ]
    tokens_made = await until_idle(server) - before
    return Stuck(tokens_made, pulses.longest_wait, freed_at[0] - stopped_at if freed_at else None)


async def cost(server: Server, count: int, tokens: int) -> float | None:
    """Microseconds of the server's processor time for a token, its engine's share included; None if unknown."""
    before = server.process.cpu_seconds()
    await asyncio.gather(*(streamed(server, AT_ONCE, tokens) for _ in range(count)))
    await until_idle(server)
    after = server.process.cpu_seconds()
    return None if before is None or after is None else 1e6 * (after - before) / (count * tokens)


async def article(server: Server, prompt: str, sizes: Sizes) -> Article:
    await streamed(server, prompt, LEAVE_AFTER)
    return Article(
        stream=await together(server, 1, prompt, sizes.article),
        unstreamed=await unstreamed(server, prompt, sizes.article),
        left=await left_after_tokens(server, prompt, sizes.left),
    )


async def unstreamed(server: Server, prompt: str, tokens: int) -> Stream:
    """An answer that is not streamed: its tokens come all at once, at the end."""
    exchange = await whole(server.target, server.target.body(prompt, tokens, stream=False))
    ended_at = exchange.ended_at
    found = len(exchange.answer()["token_ids"])
    one = Stream(exchange.asked_at, exchange.headers_at, [ended_at] * found, ended_at, found)
    return one.since(exchange.asked_at)


async def until_idle(server: Server) -> int:
    """Wait until no request is in the engine; the tokens that it has made since its start."""
    async with asyncio.timeout(IDLE_LIMIT):
        while (health := await ask_health(server.target)).running:  # noqa: ASYNC110  (another process has no event)
            await asyncio.sleep(0.01)
    return health.generated_tokens
