"""Calls of two special kinds, as a driver sees them: what goes on without its client, and what repeats what is kept.

A driver recognises them by their classes, and takes nothing but the requests of any other call.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from interface.events import Event
from interface.requests import GenerationRequest

LOOK_EVERY = 0.1
"""Seconds between two looks for news of a `Recall`, which may be in another process."""


class Call(Protocol):
    """What a driver takes of any call."""

    @property
    def requests(self) -> Sequence[GenerationRequest]: ...


class InBackground(ABC):
    """A call that goes on when its client has left, until it has ended or is not wanted any more."""

    @abstractmethod
    def take(self, event: Event) -> None:
        """Take an event as it comes from the engine, before the client's own stream gets it."""

    @abstractmethod
    def is_wanted(self) -> bool:
        """Return whether to go on. This may wait for another process."""


class Recall(ABC):
    """A call that generates nothing: its client gets what another call has written, and writes.

    Its stream has no events. What `look` finds is what its writer sends at the next silence.
    """

    @property
    @abstractmethod
    def has_news(self) -> bool:
        """Whether something was found that is not sent yet."""

    @abstractmethod
    def look(self) -> bool:
        """Look for what has come since the last time; return whether there may be more.

        This may wait for another process.
        """
