"""What a sequence tells the sampler, token by token."""

import random
from typing import Any
from unittest.mock import MagicMock

from inference.scheduling.sequence import Sequence
from interface.requests import text_request
from tests.support.tiny_models import tiny_engine


def sequence(**settings: Any) -> Sequence:
    encoded = tiny_engine(max_streams=1).encode([text_request("hi", max_tokens=9, **settings)])[0]
    answer = MagicMock(grammar=None, ends={})
    return Sequence(encoded, lambda events: None, answer)


def test_each_token_is_drawn_with_the_next_random_number_of_its_seed() -> None:
    drawn, expected = sequence(seed=5, temperature=1), random.Random(5)
    for token_id in (3, 4, 5):
        assert [args.uniform for args in drawn.sample_args()] == [expected.random()]
        drawn.append(token_id)


def test_a_repetition_penalty_counts_the_prompt_and_the_others_the_answer_alone() -> None:
    for settings, of_prompt in (({"repetition_penalty": 1.2}, 2), ({"presence_penalty": 0.5}, 0)):
        penalized = sequence(**settings)
        before = penalized.sample_args()[0].seen
        assert before is not None
        assert len(before.ids) == of_prompt
        penalized.append(300)
        after = penalized.sample_args()[0].seen
        assert after is not None
        assert (after.ids[-1], list(after.counts)) == (300, [0] * of_prompt + [1])
