"""The words that the project's style bans are in no prose, comment, string or name."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
BANNED = re.compile(
    r"\b(nobody|whoever|somebody|anew|of equals|the likeliest|goes by the clock|lets? go of|is to be had|in company)\b",
    re.IGNORECASE,
)
EXCEPT = (
    "tests/test_words.py",
    "training/texts/",  # what the bundled model was trained on
    "training/stories.py",
    "lessons/printed/",
)
VAGUE = re.compile(r"\bits_[a-z]\w*")
"""Names that say of what something is a part, where they should say what it is."""
SUFFIXES = {".py", ".md", ".js", ".css", ".html", ".cpp", ".hpp", ".toml", ".yml", ".yaml", ""}


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True)
    return listed.stdout.splitlines()


def banned_in(text: str) -> list[str]:
    lines = enumerate(text.splitlines(), 1)
    return [f"{number}: {line.strip()}" for number, line in lines if BANNED.search(line.replace("_", " "))]


def test_no_banned_word_is_used() -> None:
    files = [name for name in tracked_files() if Path(name).suffix in SUFFIXES and not name.startswith(EXCEPT)]
    assert len(files) > 200
    found = {name: lines for name in files if (lines := banned_in((ROOT / name).read_text(errors="replace")))}
    assert found == {}


def test_no_name_is_a_pronoun() -> None:
    code = [name for name in tracked_files() if Path(name).suffix in {".py", ".js", ".cpp", ".hpp"}]
    code.remove("tests/test_words.py")
    found = {name: names for name in code if (names := VAGUE.findall((ROOT / name).read_text()))}
    assert found == {}


def test_the_rule_would_notice() -> None:
    assert VAGUE.findall("its_parser = parser()") == ["its_parser"]
    assert banned_in("one\nNobody knows.\n") == ["2: Nobody knows."]
    assert banned_in("It lets go of the slot, besides.") == ["1: It lets go of the slot, besides."]
    assert banned_in("def test_nobody_waits(): ...") == ["1: def test_nobody_waits(): ..."]
