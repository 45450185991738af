"""lm-eval's way of reading log probabilities, on the scripted engine through both doors."""

from study.clients.lm_eval import loglikelihoods
from tests.support.serving import Door, on_a_socket


def test_the_lists_are_as_long_as_the_harness_expects(door: Door) -> None:
    with on_a_socket(door) as service:
        answers = loglikelihoods(f"http://127.0.0.1:{service.port}", [([5, 6], [7]), ([5], [6, 7, 8])])
    assert answers == [(-0.5, True), (-1.5, True)]
