"""A run's figures in sentences. Which server a sentence names depends only on the figures."""

from collections.abc import Callable, Iterator

from study.compare.experiments import LEAVE_AFTER, Together
from study.compare.results import Result, Run, micro, ms
from study.compare.servers import STALL_SECONDS

BLOCKED = 0.5
"""A /health that waits for this share of an experiment's time was blocked by it."""
LATER = 3.0
"""A first token is late if it takes this many times as long as the fastest one."""
LONG_SECONDS = 0.25
"""Seconds after its client left from which on a request that is still in the engine is mentioned."""
MEASURABLE_SECONDS = 0.1
"""Processor time is counted in ticks of 10 ms, so less than this is not reported."""


def findings(run: Run) -> dict[str, list[str]]:
    """Return sentences by their topic; a topic without any is left out."""
    sentences_of = {title: [sentence for part in parts for sentence in part(run)] for title, parts in PARTS.items()}
    return {title: sentences for title, sentences in sentences_of.items() if sentences}


def article(run: Run) -> Iterator[str]:
    streamed = [result.article.stream.last_first_token for result in run.results]
    unstreamed = [result.article.unstreamed.ended_at for result in run.results]
    yield (
        f"With {run.model}, the first of {run.sizes.article} tokens could be seen after {between(streamed)} ms where "
        f"they were streamed, and after {between(unstreamed)} ms where they were not."
    )
    yield from _health_during_a_stream(run, f"With {run.model}", lambda result: result.article.stream)
    made = [(result.article.left.tokens_made, result) for result in run.results]
    yield f"With {run.model}, for a client that left after {LEAVE_AFTER} of {run.sizes.left} tokens: {tokens_on(made)}."


def streaming(run: Run) -> Iterator[str]:
    """Say whether tokens come before the end of the answer."""
    does, does_not = split(run, lambda result: result.figures.one.last_first_token < 0.75 * result.figures.one.end)
    if does:
        yield f"The first token came long before the end from {names(does)}: that is streaming."
    if does_not:
        yield f"No token came before most of the time was over from {names(does_not)}."


def headers(run: Run) -> Iterator[str]:
    def early(result: Result) -> bool:
        only = result.figures.one.streams[0]
        return only.headers_at < 0.5 * only.tokens_at[0]

    ahead, with_token = split(run, early)
    if ahead:
        yield f"The headers came well before the first token from {names(ahead)}."
    if with_token:
        yield f"The headers came only with the first token from {names(with_token)}."


def health(run: Run) -> Iterator[str]:
    yield from _health_during_a_stream(run, "With the paced engine", lambda result: result.figures.one)


def _health_during_a_stream(run: Run, where: str, stream: Callable[[Result], Together]) -> Iterator[str]:
    blocked, free = split(run, lambda result: stream(result).longest_wait > BLOCKED * stream(result).end)
    for result in blocked:
        yield (
            f"{where}, {result.kind.title} left /health unanswered for up to {ms(stream(result).longest_wait)} ms "
            f"during one stream of {ms(stream(result).end)} ms."
        )
    if free:
        longest = max(stream(result).longest_wait for result in free)
        yield f"{where}, /health took at most {ms(longest)} ms during one stream on {names(free)}."


def many(run: Run) -> Iterator[str]:
    for count in run.sizes.many:
        yield _many(run, count)


def _many(run: Run, count: int) -> str:
    def first_token(result: Result) -> float:
        return result.figures.many[count].last_first_token

    fastest = min(first_token(result) for result in run.results)
    late, prompt = split(run, lambda result: first_token(result) > LATER * fastest)
    sentence = (
        f"Of {count} streams asked for at once, the last had its first token within "
        f"{ms(max(map(first_token, prompt)))} ms on {names(prompt)}"
    )
    return "".join(
        [sentence, *(f"; after {ms(first_token(result))} ms on {result.kind.title}" for result in late), "."]
    )


def leaving(run: Run) -> Iterator[str]:
    during_another = [(result.figures.left.during_another, result) for result in run.results]
    yield (
        f"For a client that left after {LEAVE_AFTER} tokens while another stream ran, of {run.sizes.left} tokens: "
        f"{tokens_on(during_another)}."
    )
    for what, departures in (
        (f"after {LEAVE_AFTER} tokens of a stream", [result.figures.left.after_tokens for result in run.results]),
        ("in the prefill of a stream", [result.figures.left.in_prefill for result in run.results]),
        ("during an answer that is not streamed", [result.figures.left.unstreamed for result in run.results]),
    ):
        made = [(departure.tokens_made, result) for departure, result in zip(departures, run.results, strict=True)]
        yield f"For a client that left {what}, of {run.sizes.left} tokens: {tokens_on(made)}."
        late = [
            f"{ms(departure.freed_after)} ms on {result.kind.title}"
            for departure, result in zip(departures, run.results, strict=True)
            if departure.freed_after > LONG_SECONDS
        ]
        if late:
            yield f"Its request was in the engine for another {', '.join(late)}."


def stuck(run: Run) -> Iterator[str]:
    held, freed = split(run, lambda result: result.figures.stuck.freed_after is None)
    for result in freed:
        yield (
            f"When a reader stopped reading, {result.kind.title} ended its request after "
            f"{result.figures.stuck.freed_after:.1f} s (its limit was set to {STALL_SECONDS} s)."
        )
    if held:
        yield (
            f"When a reader stopped reading, its request was still held {run.sizes.stuck_seconds:g} s later by "
            f"{names(held)}."
        )
    made = [(result.figures.stuck.tokens_made, result) for result in run.results]
    yield f"For the reader that stopped, of {run.sizes.stuck} tokens: {tokens_on(made)}."
    blocked, _ = split(run, lambda result: result.figures.stuck.longest_wait > BLOCKED * run.sizes.stuck_seconds)
    if blocked:
        yield f"While it did not read, /health did not answer on {names(blocked)}."


def cost(run: Run) -> Iterator[str]:
    for count, tokens in run.sizes.cost.items():
        costs = [(result.figures.cost[count], result) for result in run.results]
        known = [(cost, result) for cost, result in costs if cost is not None]
        if known and all(1e-6 * cost * count * tokens > MEASURABLE_SECONDS for cost, _ in known):
            known.sort(key=lambda pair: pair[0])
            each = ", ".join(f"{micro(cost)} µs on {result.kind.title}" for cost, result in known)
            yield f"Processor time per token of {count} at once, cheapest first: {each}."


def split(run: Run, condition: Callable[[Result], bool]) -> tuple[list[Result], list[Result]]:
    does = [result for result in run.results if condition(result)]
    return does, [result for result in run.results if not condition(result)]


def names(results: list[Result]) -> str:
    *most, last = [result.kind.title for result in results]
    return f"{', '.join(most)} and {last}" if most else last


def tokens_on(made: list[tuple[int, Result]]) -> str:
    """Say which servers made how many tokens, with those of the same number together."""
    by_number: dict[int, list[Result]] = {}
    for number, result in made:
        by_number.setdefault(number, []).append(result)
    return ", ".join(f"{number} made on {names(by_number[number])}" for number in sorted(by_number))


def between(seconds: list[float]) -> str:
    least, most = ms(min(seconds)), ms(max(seconds))
    return least if least == most else f"{least} to {most}"


PARTS: dict[str, tuple[Callable[[Run], Iterator[str]], ...]] = {
    "What the article measured": (article,),
    "One stream": (streaming, headers, health),
    "Many at once": (many,),
    "A client that leaves": (leaving,),
    "A reader that stops reading": (stuck,),
    "Cost": (cost,),
}
