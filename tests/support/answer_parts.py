"""Random answers: content, reasoning and tool calls, whole and in pieces."""

from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from interface.events import ArgumentsPart, Part, TextPart, ToolCallPart

ARGUMENTS = st.sampled_from(["{}", '{"a": 1}', '{"b": ["x", "\\u00e9"]}'])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
Tokens = Sequence[tuple[Part, ...]]
"""The parts of each token."""


@st.composite
def _calls_in_pieces(draw: st.DrawFn) -> list[Part]:
    arguments = draw(ARGUMENTS)
    cuts = sorted(draw(st.sets(st.integers(1, len(arguments) - 1))))
    first, *rest = [arguments[start:end] for start, end in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    return [ToolCallPart("add", first, is_whole=False), *map(ArgumentsPart, rest)]


def _one(part: Part) -> list[Part]:
    return [part]


_pieces: st.SearchStrategy[list[Part]] = st.one_of(
    st.builds(TextPart, st.sampled_from(["content", "reasoning"]), TEXTS).map(_one),
    st.builds(ToolCallPart, st.sampled_from(["add", "now"]), ARGUMENTS).map(_one),
    _calls_in_pieces(),
)


@st.composite
def _answers(draw: st.DrawFn) -> Tokens:
    parts = [part for piece in draw(st.lists(_pieces, max_size=6)) for part in piece]
    tokens: list[tuple[Part, ...]] = []
    while parts:
        size = draw(st.integers(0, 3))
        tokens.append(tuple(parts[:size]))
        parts = parts[size:]
    return tokens


ANSWERS: st.SearchStrategy[Tokens] = _answers()


def calls_of(parts: Iterable[Part]) -> list[tuple[str, str]]:
    """The name and the whole arguments of each call."""
    calls: list[tuple[str, str]] = []
    for part in parts:
        match part:
            case ToolCallPart():
                calls.append((part.name, part.arguments))
            case ArgumentsPart():
                name, arguments = calls[-1]
                calls[-1] = (name, arguments + part.text)
    return calls
