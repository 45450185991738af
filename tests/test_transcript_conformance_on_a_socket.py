"""The doors' suite over a socket once more, with the transcript around them: it changes nothing."""

from config import Config
from driver import Driver
from tests.serving import Door
from tests.test_doors_over_a_socket import *  # noqa: F403
from tests.watched_doors import door  # noqa: F401
from transcript.asgi import Transcript


def test_the_suite_runs_on_watched_doors(door: Door) -> None:  # noqa: F811
    assert isinstance(door(Driver(Config())), Transcript)
