"""The load: conversations with common beginnings, the same for every router, and its outcome."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import mean

import simpy

from study.common.client import percentile
from study.routing.replicas import SYSTEM, Process, Replica, Request
from study.routing.routers import ROUTERS, Router

TURN, ANSWER = 60, 100
"""Tokens of a question and of an answer, in the mean."""
TURNS, THINKING = 4, 5.0
"""The mean number of turns of a conversation, and the mean seconds from an answer to the next question."""
MOST_TURNS = 20
SYSTEMS_PER_REPLICA = 4
"""More system prompts than a replica can keep; some are much more frequent than others."""


@dataclass(frozen=True)
class Conversation:
    """The turns of one client."""

    begins_at: float
    system: int
    questions: Sequence[int]
    answers: Sequence[int]
    pauses: Sequence[float]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a load with one router."""

    requests: Sequence[Request]
    replicas: Sequence[Replica]

    @property
    def hit_rate(self) -> float:
        """The share of the prompts' tokens that were in the cache of the replica that got them."""
        return sum(request.cached for request in self.requests) / sum(request.prompt for request in self.requests)

    @property
    def first_tokens(self) -> list[float]:
        """Seconds from a request to its first token."""
        return [
            request.first_token_at - request.asked_at for request in self.requests if request.first_token_at is not None
        ]

    @property
    def skew(self) -> float:
        """How much busier the busiest replica was than the mean."""
        return max(replica.busy for replica in self.replicas) / mean(replica.busy for replica in self.replicas)

    @property
    def cost(self) -> float:
        """The mean seconds of a replica's time per request; requests in the same steps share them."""
        return sum(replica.busy for replica in self.replicas) / len(self.requests)

    def row(self) -> list[str]:
        first = self.first_tokens
        return [
            f"{100 * self.hit_rate:.0f}%",
            f"{1e3 * percentile(first, 50):,.0f}",
            f"{1e3 * percentile(first, 99):,.0f}",
            f"{1e3 * self.cost:.0f}",
            f"{self.skew:.2f}",
        ]


def conversations(replicas: int, per_replica: float, seconds: float, seed: int) -> list[Conversation]:
    """Conversations that begin within a time, `per_replica` of them a second for each replica."""
    draw = random.Random(seed)
    systems = range(max(1, SYSTEMS_PER_REPLICA * replicas))
    weights = list(accumulate(1 / (rank + 1) for rank in systems))
    found = []
    begins_at = draw.expovariate(per_replica * replicas)
    while begins_at < seconds:
        turns = min(MOST_TURNS, 1 + int(draw.expovariate(1 / (TURNS - 1))))
        system = draw.choices(systems, cum_weights=weights)[0]
        questions = [1 + int(draw.expovariate(1 / TURN)) for _ in range(turns)]
        answers = [1 + int(draw.expovariate(1 / ANSWER)) for _ in range(turns)]
        pauses = [draw.expovariate(1 / THINKING) for _ in range(turns)]
        found.append(Conversation(begins_at, system, questions, answers, pauses))
        begins_at += draw.expovariate(per_replica * replicas)
    return found


def simulate(router_name: str, load: Sequence[Conversation], number: int) -> Outcome:
    """Let a load's conversations run to their ends on so many replicas."""
    env = simpy.Environment()
    replicas = [Replica(env) for _ in range(number)]
    router = ROUTERS[router_name](replicas)
    requests: list[Request] = []
    for session, conversation in enumerate(load):
        env.process(_talk(env, session, conversation, router, requests))
    env.run()
    return Outcome(requests, replicas)


def _talk(
    env: simpy.Environment, session: int, conversation: Conversation, router: Router, requests: list[Request]
) -> Process:
    """One client: it sends a request, reads, thinks, and sends the next one with all the text before it."""
    yield env.timeout(conversation.begins_at)
    history = 0
    for question, answer, pause in zip(conversation.questions, conversation.answers, conversation.pauses, strict=True):
        request = Request(session, conversation.system, SYSTEM + history + question, answer, env.now, env.event())
        requests.append(request)
        number = router.choose(request)
        router.replicas[number].submit(request)
        router.sent(number)
        yield request.done
        router.ended(number)
        history += question + answer
        yield env.timeout(pause)
