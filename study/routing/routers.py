"""The ways to choose a replica for a request."""

import heapq
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import count

from study.routing.replicas import Replica, Request


class Router:
    """Chooses a replica for each request, from the requests that it has sent to each and those that are open."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = replicas
        self.open = 0
        self._notes = count()
        self._heap = [(0, next(self._notes), number) for number in range(len(replicas))]

    def choose(self, request: Request) -> int:
        raise NotImplementedError

    def sent(self, number: int) -> None:
        self.open += 1
        self._note(number)

    def ended(self, number: int) -> None:
        self.open -= 1
        self._note(number)

    def least_loaded(self) -> int:
        """The replica with the fewest open requests; among several, the one that has had so few for longest."""
        while self.replicas[self._heap[0][2]].open != self._heap[0][0]:
            heapq.heappop(self._heap)  # an outdated entry
        return self._heap[0][2]

    def _note(self, number: int) -> None:
        heapq.heappush(self._heap, (self.replicas[number].open, next(self._notes), number))


class RoundRobin(Router):
    def __init__(self, replicas: Sequence[Replica]) -> None:
        super().__init__(replicas)
        self._turn = count()

    def choose(self, request: Request) -> int:
        return next(self._turn) % len(self.replicas)


class LeastLoaded(Router):
    def choose(self, request: Request) -> int:
        return self.least_loaded()


class BySession(Router):
    """Routes by a hash of the session, as Ray's ConsistentHashRouter and HAProxy's `balance hdr(x-session-id)` do."""

    def choose(self, request: Request) -> int:
        return zlib.crc32(str(request.session).encode()) % len(self.replicas)


class ByPrefix(Router):
    """Routes to the replica that was sent the longest beginning of the prompt, unless it has too many open requests.

    It knows prompts and not caches, like the approximate prefix scorer of the inference gateway.
    """

    KNOWN = 64
    """Conversations that it remembers for each replica."""
    TOO_MANY = 4
    """Open requests above the mean from which on a replica has too many."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        super().__init__(replicas)
        self._of_session: dict[int, int] = {}
        self._of_system: dict[int, OrderedDict[int, None]] = {}
        self._known: list[OrderedDict[int, int]] = [OrderedDict() for _ in replicas]
        """For each replica, the conversations sent there, each with its system prompt; the oldest first."""

    def choose(self, request: Request) -> int:
        at_most = self.open / len(self.replicas) + self.TOO_MANY
        number = self._of_session.get(request.session)
        if number is None or self.replicas[number].open > at_most:
            with_system = self._of_system.get(request.system, ())
            able = [replica for replica in with_system if self.replicas[replica].open <= at_most]
            number = min(able, key=lambda replica: self.replicas[replica].open) if able else self.least_loaded()
        self._remember(request, number)
        return number

    def _remember(self, request: Request, number: int) -> None:
        self._of_session[request.session] = number
        self._of_system.setdefault(request.system, OrderedDict())[number] = None
        known = self._known[number]
        known[request.session] = request.system
        known.move_to_end(request.session)
        if len(known) > self.KNOWN:
            self._forget(*known.popitem(last=False), number)

    def _forget(self, session: int, system: int, number: int) -> None:
        if self._of_session.get(session) == number:
            del self._of_session[session]
        if system not in self._known[number].values():
            self._of_system[system].pop(number, None)


ROUTERS: dict[str, Callable[[Sequence[Replica]], Router]] = {
    "round robin": RoundRobin,
    "least loaded": LeastLoaded,
    "session": BySession,
    "prefix": ByPrefix,
}
