"""Tables that a program writes into a document."""

from pathlib import Path

import pytest

from study.common.document import table, write_part

PAGE = "before\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\nother\n<!-- /b -->\n"


def test_only_the_named_part_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_part(page, "a", table(("one", "two"), [("1", r"\1")]))
    assert page.read_text() == PAGE.replace("old", "| one | two |\n|---|---|\n| 1 | \\1 |")


def test_a_part_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(ValueError, match="<!-- c -->"):
        write_part(page, "c", "text")
    assert page.read_text() == PAGE
