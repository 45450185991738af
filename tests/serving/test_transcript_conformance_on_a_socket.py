"""The doors' suite over a socket once more, with the transcript around them: it changes nothing."""

from config import Config
from serving.driver import Driver
from serving.transcript.asgi import Transcript
from tests.doors.test_doors_over_a_socket import *  # noqa: F403
from tests.support.serving import Door
from tests.support.watched_doors import door  # noqa: F401


def test_the_suite_runs_on_watched_doors(door: Door) -> None:  # noqa: F811
    assert isinstance(door(Driver(Config())), Transcript)
