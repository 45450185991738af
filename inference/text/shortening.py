"""Shortens a conversation that does not fit the context, as `truncation: "auto"` of OpenAI's Responses API does.

Invariants:
    1. System and developer messages stay, and so do the user's last message and the message at the end.
    2. Of the others, the oldest go first, and no more of them than have to go.
    3. A tool's result stays only with the call that asked for it, and a call only with its results.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from inference.text.message_forms import INSTRUCTING
from inference.text.templates import Rendered
from interface.errors import PromptTooLong, RequestError
from interface.requests import ChatPrompt

Message = Mapping[str, Any]
Unit = list[int]
"""The places of messages that stay or go together."""


def render_to_fit(prompt: ChatPrompt, most_tokens: int, render: Callable[[ChatPrompt], Rendered]) -> Rendered:
    """Render a conversation without its oldest messages, as far as they have to go for it to fit.

    If not even the shortest form fits, that one is returned, and the caller says that it is too long.

    Args:
        most_tokens: how long the prompt may be.
        render: may raise `PromptTooLong` for a prompt that is far too long for the context.

    Raises:
        PromptTooLong: the shortest form is far too long.
        RequestError: the chat template cannot render it.
    """

    def fitting(form: ChatPrompt) -> Rendered | None:
        try:
            rendered = render(form)
        except PromptTooLong:
            return None
        return rendered if len(rendered.token_ids) <= most_tokens else None

    if (whole := fitting(prompt)) is not None:
        return whole
    forms = _Forms(prompt)
    try:
        found = _longest(forms.counts, lambda count: fitting(forms.without(count)))
    except RequestError:  # some templates expect that the user begins
        found = _longest(list(forms.counts_to_a_user()), lambda count: fitting(forms.without(count)))
    return found or render(forms.shortest)


class _Forms:
    """The forms of a conversation, each without some of its first units."""

    def __init__(self, prompt: ChatPrompt) -> None:
        self._prompt = prompt
        roles = [message["role"] for message in prompt.messages]
        self._last_of_user = max((place for place, role in enumerate(roles) if role == "user"), default=-1)
        staying = {self._last_of_user, len(roles) - 1}
        self._going = [
            unit
            for unit in _units(prompt.messages)
            if roles[unit[0]] not in INSTRUCTING and not staying.intersection(unit)
        ]
        self.counts = range(len(self._going), 0, -1)
        """How many units can go; the shortest form comes first."""
        self.shortest = self.without(len(self._going))

    def without(self, count: int) -> ChatPrompt:
        """The conversation without the first units of those that may go."""
        gone = {place for unit in self._going[:count] for place in unit}
        messages = [message for place, message in enumerate(self._prompt.messages) if place not in gone]
        return replace(self._prompt, messages=messages)

    def counts_to_a_user(self) -> Iterator[int]:
        """Those of the counts after which the first message, apart from the system's, is one of the user's."""
        for count in self.counts:
            first = self._going[count][0] if count < len(self._going) else len(self._prompt.messages)
            if first > self._last_of_user or self._prompt.messages[first]["role"] == "user":
                yield count


def _units(messages: Sequence[Message]) -> list[Unit]:
    """Each message alone, but the results of tools with the message that has their calls."""
    units: list[Unit] = []
    unit_of_call: dict[Any, Unit] = {}
    for place, message in enumerate(messages):
        if message["role"] == "tool" and units:
            unit_of_call.get(message.get("tool_call_id"), units[-1]).append(place)
            continue
        units.append([place])
        unit_of_call |= {call.get("id"): units[-1] for call in message.get("tool_calls") or ()}
    return units


def _longest(counts: Sequence[int], fitting: Callable[[int], Rendered | None]) -> Rendered | None:
    """Find the last count whose form fits, where all those before it do; None if the first one does not.

    The steps grow from the first count on, so that no form is rendered that is much longer than the context.
    """
    found, fits, step, too_long = None, -1, 1, len(counts)
    while too_long - fits > 1:
        tried = fits + min(step, (too_long - fits) // 2)
        if (rendered := fitting(counts[tried])) is None:
            too_long = tried
        else:
            found, fits, step = rendered, tried, 2 * step
    return found
