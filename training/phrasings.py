"""Further ways to ask, from texts/phrasings.txt: taught, never examined.

A rule holds some phrasings of `topics` and `arithmetic` out; none of these. They make the taught questions so varied
that an unseen one resembles one that was seen.
"""

from functools import cache
from pathlib import Path

TEXTS = Path(__file__).parent / "texts" / "phrasings.txt"


def sections(path: Path) -> dict[str, list[str]]:
    """The lines of a text file below each of its headings, `= name`; lines that begin with # are left out."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            found[line[2:]] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


@cache
def _sections() -> dict[str, list[str]]:
    return sections(TEXTS)


def further(section: str) -> tuple[str, ...]:
    """The phrasings for one thing: term, terms, sum, difference, product, story, poem, repeat or count."""
    return tuple(_sections()[section])
