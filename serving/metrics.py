"""Counters and histograms of a driver's requests, in Prometheus' text format for `/metrics`.

Counting an event is an addition; the text is made on request, with `prometheus_client`. The metrics that routers read
have vLLM's names as well, so a router that supports vLLM needs no configuration.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from interface.engine import Counters, StepEvents, Tally
from interface.events import Token
from serving.request_log import RequestLog

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""The bounds of histograms, in seconds: of a step, and of a whole request."""
ROUTERS_BLOCK = 16
"""The block size that routers are told. They compare prompts block by block to find a replica that has a prefix. Here
prefixes are found token by token, so any small number is right; with a whole slot as the block nothing would match."""


class Histogram:
    """How many values were at most each bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe many values in one call; the tokens of a step often share a bucket."""
        bounds, counts = self.bounds, self.counts
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self.sum += sum(values)

    def state(self) -> dict[str, float]:
        """The counts of the buckets by their index, and `sum`."""
        return {str(place): float(count) for place, count in enumerate(self.counts)} | {"sum": self.sum}

    def add(self, place: str, amount: float) -> None:
        if place == "sum":
            self.sum += amount
        else:
            self.counts[int(place)] += int(amount)

    def family(self, name: str, help: str) -> HistogramMetricFamily:
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        so_far = 0
        buckets = []
        for bound, count in zip(names, self.counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        return HistogramMetricFamily(name, help, buckets=buckets, sum_value=self.sum)


@dataclass(frozen=True, slots=True)
class State:
    """The values of the gauges."""

    counters: Counters
    is_ready: bool
    has_failed: bool
    cache_tokens: int
    """Tokens in the cache, of the sequences that hold a slot."""
    slots: int
    context: int
    model: str


HISTOGRAMS = ("time_to_first_token", "inter_token", "end_to_end")
LABELLED = ("finished", "answers")


class Metrics:
    """Counts what happens. No two threads may count at the same time: the ASGI doors count on their event loop's, the
    driver for callers that block under a lock.
    """

    def __init__(self) -> None:
        self.time_to_first_token = Histogram(LONG)
        self.inter_token = Histogram(SHORT)
        self.end_to_end = Histogram(LONG)
        self.finished: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.prompt_tokens = 0
        self.cached_tokens = 0

    def step(self, events: StepEvents) -> None:
        """Count, for each of a step's tokens, the time since the token before."""
        self.inter_token.observe_all(
            [event.ms / 1e3 for _, event in events if type(event) is Token and not event.is_first]
        )

    def generation(self, log: RequestLog) -> None:
        """Count a request that is over."""
        self.finished[log.finish_reason] += 1
        self.prompt_tokens += log.prompt_tokens
        self.cached_tokens += log.cached_tokens
        self.end_to_end.observe(log.seconds)
        if (first := log.seconds_to_first_token) is not None:
            self.time_to_first_token.observe(first)

    def answer(self, status: int) -> None:
        self.answers[str(status)] += 1

    def counts(self) -> dict[str, float]:
        """Everything counted so far, by names that are the same in every process."""
        counts = {"prompt_tokens:": float(self.prompt_tokens), "cached_tokens:": float(self.cached_tokens)}
        for name in HISTOGRAMS:
            counts |= {f"{name}:{place}": amount for place, amount in getattr(self, name).state().items()}
        for name in LABELLED:
            counts |= {f"{name}:{label}": float(count) for label, count in getattr(self, name).items()}
        return counts

    def plus(self, counts: Mapping[str, float]) -> "Metrics":
        """Return these metrics with the counts of other processes added."""
        both = deepcopy(self)
        for name, amount in counts.items():
            field, _, place = name.partition(":")
            if field in HISTOGRAMS:
                getattr(both, field).add(place, amount)
            elif field in LABELLED:
                getattr(both, field)[place] += int(amount)
            else:
                setattr(both, field, getattr(both, field) + int(amount))
        return both

    def text(self, state: State, others: Tally | None = None) -> bytes:
        """Return the text that Prometheus reads. `others` are the counts of other processes over the same engine."""
        if others is not None:
            state = replace(state, cache_tokens=state.cache_tokens + others.cache_tokens)
            return self.plus(others.counts).text(state)
        registry = CollectorRegistry()
        registry.register(_Collected([*self._counted(), *_present(state), *self._for_routers(state)]))
        return generate_latest(registry)

    def _counted(self) -> Iterator[Metric]:
        yield self.time_to_first_token.family(
            "engine_time_to_first_token_seconds", "From a request's arrival to its first token."
        )
        yield self.inter_token.family("engine_inter_token_seconds", "From one token of a sequence to the next.")
        yield self.end_to_end.family("engine_request_seconds", "From a request's arrival to its end.")
        yield _by_label("engine_requests", "Generations that have ended.", "finish_reason", self.finished)
        refused = {status: count for status, count in self.answers.items() if int(status) >= 400}
        yield _by_label("engine_refusals", "Answers with a status of 400 or more.", "status", refused)
        yield _counter("engine_prompt_tokens", "Tokens of prompts.", self.prompt_tokens)
        yield _counter("engine_prefix_cache_hit_tokens", "Prompt tokens that were cached already.", self.cached_tokens)

    def _for_routers(self, state: State) -> Iterator[Metric]:
        """The metrics that routers read, under vLLM's names and its older ones."""
        labels = {"model_name": state.model}
        usage = _usage(state)
        for name, help, value in (
            ("vllm:num_requests_running", "engine_running", state.counters.running),
            ("vllm:num_requests_waiting", "engine_waiting", state.counters.waiting),
            ("vllm:kv_cache_usage_perc", "engine_cache_usage", usage),
            ("vllm:gpu_cache_usage_perc", "engine_cache_usage", usage),
        ):
            yield _labelled(GaugeMetricFamily, name, f"The same as {help}.", labels, value)
        for name, help, value in (
            ("prefix_cache_queries", "engine_prompt_tokens", self.prompt_tokens),
            ("prefix_cache_hits", "engine_prefix_cache_hit_tokens", self.cached_tokens),
        ):
            for prefix in ("vllm:", "vllm:gpu_"):
                yield _labelled(CounterMetricFamily, prefix + name, f"The same as {help}.", labels, value)
        blocks = {"block_size": str(ROUTERS_BLOCK), "num_gpu_blocks": str(state.slots * state.context // ROUTERS_BLOCK)}
        yield _labelled(GaugeMetricFamily, "vllm:cache_config_info", "The cache, as blocks of tokens.", blocks, 1)


class _Collected:
    """A collector of metrics that are made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _present(state: State) -> Iterator[Metric]:
    counters = state.counters
    yield GaugeMetricFamily("engine_running", "Sequences that hold a slot.", counters.running)
    yield GaugeMetricFamily("engine_waiting", "Sequences that wait for a slot.", counters.waiting)
    yield GaugeMetricFamily("engine_cache_usage", "The used part of the cache's tokens, from 0 to 1.", _usage(state))
    yield GaugeMetricFamily("engine_ready", "1 if requests are taken.", float(state.is_ready))
    yield GaugeMetricFamily("engine_failed", "1 if only a restart can help.", float(state.has_failed))
    yield _counter("engine_generated_tokens", "Tokens made.", counters.generated_tokens)
    yield _counter("engine_steps", "Steps of the engine.", counters.steps)
    yield _counter("engine_step_seconds", "Seconds that all steps have taken together.", counters.step_seconds)
    yield _counter("engine_failed_steps", "Steps that raised.", counters.failed_steps)
    yield _counter("engine_guessed_tokens", "Tokens computed on a guess.", counters.guessed_tokens)
    yield _counter("engine_true_guesses", "Guessed tokens that were right.", counters.true_guesses)


def _usage(state: State) -> float:
    return min(1.0, state.cache_tokens / (state.slots * state.context)) if state.context else 0.0


def _labelled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    help: str,
    labels: Mapping[str, str],
    value: float,
) -> Metric:
    made = family(name, help, labels=list(labels))
    made.add_metric(list(labels.values()), value)
    return made


def _counter(name: str, help: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, help, value)


def _by_label(name: str, help: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family
