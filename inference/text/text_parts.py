"""The texts of an answer as parts of it, without the white space that the template puts between parts."""

from interface.events import Part, TextKind, TextPart

BLANK_LINE = "\n\n"
"""Separates two messages of one kind."""


class TextParts:
    """Makes parts of the texts that are found in an answer, in their order.

    White space at the end of a text is held back: it is shown only if the text goes on.
    """

    def __init__(self) -> None:
        self.is_after_calls = False
        """Whether no text has come since the last call."""
        self._space: list[str] = []  # what is held back
        self._is_after_border = False  # so that white space is the template's
        self._last_kind: TextKind | None = None
        self._separator = ""  # what comes before the next text

    def add(self, kind: TextKind, text: str) -> list[Part]:
        """Add a piece of text; return what is to be shown now."""
        if not text.strip():
            if not self._is_after_border:
                self._space.append(text)
            return []
        shown = "".join([*self._space, text]).rstrip()
        self._space = [text[len(text.rstrip()) :]]
        if self._is_after_border:
            shown = shown.lstrip()
        shown = self._separator + shown
        self._is_after_border = self.is_after_calls = False
        self._last_kind, self._separator = kind, ""
        return [TextPart(kind, shown)]

    def add_content(self, text: str) -> list[Part]:
        """Add a text of which nothing is the template's; return it, after the white space that was held back."""
        shown = "".join([*self._space, text])
        self._space, self._is_after_border, self.is_after_calls = [], False, False
        return [TextPart("content", shown)] if shown else []

    def add_border(self) -> None:
        """Leave out the white space before and after the border of a part that is not content."""
        self._space, self._is_after_border = [], True

    def add_calls(self) -> None:
        """Note that calls come here. What follows them is not a second message."""
        self.add_border()
        self._last_kind, self.is_after_calls = None, True

    def begin_message(self, kind: TextKind) -> None:
        """Separate the message that begins here from the last text, if that is of the same kind."""
        if kind == self._last_kind:
            self.add_border()
            self._separator = BLANK_LINE

    def go_on(self) -> None:
        """Show the white space that comes next, since it is in the middle of a text that the prompt has begun."""
        self._space, self._is_after_border = [], False

    def drop_space(self) -> None:
        """Forget the white space that was held back."""
        self._space = []
