"""A repeated log line is written once, and then at growing intervals."""

from backends.throttled_log import FIRST_INTERVAL, LONGEST_INTERVAL, MOST_KEPT, ThrottledLog


class Lines:
    """A log, and a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.written: list[str] = []
        self.log = ThrottledLog(lambda form, message: self.written.append(form % message), lambda: self.now)

    def said_within(self, seconds: float) -> list[float]:
        """The seconds in which a line was written, of two calls in each second."""
        times = []
        for _ in range(int(2 * seconds)):
            before = len(self.written)
            self.log.say("no engine")
            if len(self.written) > before:
                times.append(self.now)
            self.now += 0.5
        return times


def test_the_same_is_said_at_once_and_then_at_intervals_that_grow_up_to_a_longest() -> None:
    lines = Lines()
    first, second, *others = lines.said_within(10 * LONGEST_INTERVAL)
    assert (first, second) == (0, FIRST_INTERVAL)
    intervals = [later - earlier for earlier, later in zip([second, *others], others, strict=False)]
    assert intervals[:3] == [2 * FIRST_INTERVAL, 4 * FIRST_INTERVAL, 8 * FIRST_INTERVAL]
    assert set(intervals[6:]) == {LONGEST_INTERVAL}
    assert lines.written[:2] == ["no engine", "no engine (120 times since this was said last)"]


def test_something_else_is_said_at_once_and_so_is_what_fails_after_a_success() -> None:
    lines = Lines()
    for message in ("one", "other", "one", "other"):
        lines.log.say(message)
    assert lines.written == ["one", "other"]
    lines.log.forget()
    lines.log.say("one")
    assert lines.written == ["one", "other", "one"]


def test_only_so_many_messages_are_kept() -> None:
    lines = Lines()
    for number in range(MOST_KEPT + 1):
        lines.log.say(f"message {number}")
    lines.log.say("message 1")
    lines.log.say("message 0")
    assert lines.written[MOST_KEPT + 1 :] == ["message 0"]
