"""Writes tables into documents: each table is between two comments with its name.

write_part(page, "routing", table(("router", "hit rate"), rows))
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def write_part(page: Path, name: str, text: str) -> None:
    """Put a text between `<!-- name -->` and `<!-- /name -->`, in place of what is there.

    Raises:
        ValueError: the page has no such place.
    """
    page.write_text(with_part(page.read_text(), name, text))


def with_part(page: str, name: str, text: str) -> str:
    """A page's text with a part of it replaced; see `write_part`."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if place.search(page) is None:
        raise ValueError(f"expected <!-- {name} --> and <!-- /{name} --> in the page, found neither or one")
    return place.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)
