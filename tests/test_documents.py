"""The documents' links lead somewhere, what they and the pages tell to type is there, and the README is short."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from config import PREFIX, Config

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
MODULE = re.compile(r"python -m ([a-z_]+(?:\.\w+)*)")
SCRIPT = re.compile(r"python ([\w/]+\.py)")
TARGET = re.compile(r"(?:^(?: {4}|\$ )|`)(?:\w+=\S+ )*make ([\w./-]+)", re.MULTILINE)
SETTING = re.compile(PREFIX + r"\w+")
MOST_README_LINES = 120


def files(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    return [ROOT / name for name in listed.stdout.split()]


DOCUMENTS = files("*.md")
CURRENT = [*(document for document in DOCUMENTS if document.name != "CHANGELOG.md"), *files("page/*.html")]
"""Without what has changed, which includes what is gone."""


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    for name, anchor in LINK.findall(document.read_text()):
        target = document.parent / name if name else document
        assert target.exists(), name
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name}#{anchor}"


def test_every_picture_is_shown_in_a_document() -> None:
    shown = {
        (document.parent / link).resolve() for document in DOCUMENTS for link, _ in LINK.findall(document.read_text())
    }
    assert set((ROOT / "docs/images").glob("*.png")) <= shown


@pytest.mark.parametrize("document", CURRENT, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_target_and_setting_that_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    for place in (ROOT / module.replace(".", "/") for module in MODULE.findall(text)):
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), place
    assert [name for name in SCRIPT.findall(text) if not (ROOT / name).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in TARGET.findall(text) if f"\n{name}:" not in makefile] == []
    assert set(SETTING.findall(text)) <= {PREFIX + setting.name.upper() for setting in fields(Config)}


def test_the_rules_would_notice() -> None:
    assert MODULE.findall("run `python -m study.soak --door app`") == ["study.soak"]
    assert SCRIPT.findall("run `python docs/make_lesson.py --run`") == ["docs/make_lesson.py"]
    text = "    make soak\n$ DOOR=app make serve\n`make .venv-vllm` must make it so"
    assert TARGET.findall(text) == ["soak", "serve", ".venv-vllm"]


def test_the_readme_is_short_enough_to_read() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_README_LINES
