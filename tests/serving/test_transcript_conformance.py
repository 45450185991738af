"""The doors' suite by message once more, with the transcript around them: it changes nothing."""

from config import Config
from serving.driver import Driver
from serving.transcript.asgi import Transcript
from tests.doors.test_doors_by_message import *  # noqa: F403
from tests.support.serving import Door
from tests.support.watched_doors import door  # noqa: F401


def test_the_suite_runs_on_watched_doors(door: Door) -> None:  # noqa: F811
    """Were the fixture not the one that the tests get, they would prove nothing about the transcript."""
    assert isinstance(door(Driver(Config())), Transcript)
