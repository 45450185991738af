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
    said = {title: [sentence for part in parts for sentence in part(run)] for title, parts in PARTS.items()}
    return {title: sentences for title, sentences in said.items() if sentences}


def article(run: Run) -> Iterator[str]:
    streamed = [one.article.stream.last_first_token for one in run.results]
    unstreamed = [one.article.unstreamed.ended_at for one in run.results]
    yield (
        f"With {run.model}, the first of {run.sizes.article} tokens could be seen after {between(streamed)} ms where "
        f"they were streamed, and after {between(unstreamed)} ms where they were not."
    )
    yield from _health_during_a_stream(run, f"With {run.model}", lambda one: one.article.stream)
    made = [(one.article.left.tokens_made, one) for one in run.results]
    yield f"With {run.model}, for a client that left after {LEAVE_AFTER} of {run.sizes.left} tokens: {tokens_on(made)}."


def streaming(run: Run) -> Iterator[str]:
    """Say whether tokens come before the end of the answer."""
    does, does_not = split(run, lambda one: one.figures.one.last_first_token < 0.75 * one.figures.one.end)
    if does:
        yield f"The first token came long before the end from {names(does)}: that is streaming."
    if does_not:
        yield f"No token came before most of the time was over from {names(does_not)}."


def headers(run: Run) -> Iterator[str]:
    def early(one: Result) -> bool:
        only = one.figures.one.streams[0]
        return only.headers_at < 0.5 * only.tokens_at[0]

    ahead, with_token = split(run, early)
    if ahead:
        yield f"The headers came well before the first token from {names(ahead)}."
    if with_token:
        yield f"The headers came only with the first token from {names(with_token)}."


def health(run: Run) -> Iterator[str]:
    yield from _health_during_a_stream(run, "With the paced engine", lambda one: one.figures.one)


def _health_during_a_stream(run: Run, where: str, stream: Callable[[Result], Together]) -> Iterator[str]:
    blocked, free = split(run, lambda one: stream(one).longest_wait > BLOCKED * stream(one).end)
    for one in blocked:
        yield (
            f"{where}, {one.kind.title} left /health unanswered for up to {ms(stream(one).longest_wait)} ms during one "
            f"stream of {ms(stream(one).end)} ms."
        )
    if free:
        longest = max(stream(one).longest_wait for one in free)
        yield f"{where}, /health took at most {ms(longest)} ms during one stream on {names(free)}."


def many(run: Run) -> Iterator[str]:
    for count in run.sizes.many:
        yield _many(run, count)


def _many(run: Run, count: int) -> str:
    def first_token(one: Result) -> float:
        return one.figures.many[count].last_first_token

    fastest = min(first_token(one) for one in run.results)
    late, prompt = split(run, lambda one: first_token(one) > LATER * fastest)
    sentence = (
        f"Of {count} streams asked for at once, the last had its first token within "
        f"{ms(max(map(first_token, prompt)))} ms on {names(prompt)}"
    )
    return "".join([sentence, *(f"; after {ms(first_token(one))} ms on {one.kind.title}" for one in late), "."])


def leaving(run: Run) -> Iterator[str]:
    during_another = [(one.figures.left.during_another, one) for one in run.results]
    yield (
        f"For a client that left after {LEAVE_AFTER} tokens while another stream ran, of {run.sizes.left} tokens: "
        f"{tokens_on(during_another)}."
    )
    for what, departures in (
        (f"after {LEAVE_AFTER} tokens of a stream", [one.figures.left.after_tokens for one in run.results]),
        ("in the prefill of a stream", [one.figures.left.in_prefill for one in run.results]),
        ("during an answer that is not streamed", [one.figures.left.unstreamed for one in run.results]),
    ):
        made = [(one.tokens_made, result) for one, result in zip(departures, run.results, strict=True)]
        yield f"For a client that left {what}, of {run.sizes.left} tokens: {tokens_on(made)}."
        late = [
            f"{ms(one.freed_after)} ms on {result.kind.title}"
            for one, result in zip(departures, run.results, strict=True)
            if one.freed_after > LONG_SECONDS
        ]
        if late:
            yield f"Its request was in the engine for another {', '.join(late)}."


def stuck(run: Run) -> Iterator[str]:
    held, freed = split(run, lambda one: one.figures.stuck.freed_after is None)
    for one in freed:
        yield (
            f"When a reader stopped reading, {one.kind.title} ended its request after "
            f"{one.figures.stuck.freed_after:.1f} s (its limit was set to {STALL_SECONDS} s)."
        )
    if held:
        yield (
            f"When a reader stopped reading, its request was still held {run.sizes.stuck_seconds:g} s later by "
            f"{names(held)}."
        )
    made = [(one.figures.stuck.tokens_made, one) for one in run.results]
    yield f"For the reader that stopped, of {run.sizes.stuck} tokens: {tokens_on(made)}."
    blocked, _ = split(run, lambda one: one.figures.stuck.longest_wait > BLOCKED * run.sizes.stuck_seconds)
    if blocked:
        yield f"While it did not read, /health did not answer on {names(blocked)}."


def cost(run: Run) -> Iterator[str]:
    for count, tokens in run.sizes.cost.items():
        costs = [(one.figures.cost[count], one) for one in run.results]
        known = [(cost, one) for cost, one in costs if cost is not None]
        if known and all(1e-6 * cost * count * tokens > MEASURABLE_SECONDS for cost, _ in known):
            known.sort(key=lambda pair: pair[0])
            each = ", ".join(f"{micro(cost)} µs on {one.kind.title}" for cost, one in known)
            yield f"Processor time per token of {count} at once, cheapest first: {each}."


def split(run: Run, condition: Callable[[Result], bool]) -> tuple[list[Result], list[Result]]:
    return [one for one in run.results if condition(one)], [one for one in run.results if not condition(one)]


def names(results: list[Result]) -> str:
    *most, last = [one.kind.title for one in results]
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
