"""The tests' own rules: files that stand alone, and helpers in one place."""

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(ROOT.glob("tests/**/*.py"))
MEASURING = ("study.benchmarks.", "study.compare.")


@cache  # parsing all tests takes seconds
def imported_names(source: str) -> Sequence[str]:
    """The full names of the modules that a source imports, and of what it imports from them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return names


def from_test_modules(source: str) -> list[str]:
    """What a source imports that is a test module, or a part of one."""
    names = imported_names(source)
    return [name for name in names if name.startswith("tests.") and any(map(is_test_module, name.split(".")))]


def is_test_module(name: str) -> bool:
    return name.startswith("test_")


def from_measuring_programs(source: str) -> list[str]:
    return [name for name in imported_names(source) if name.startswith(MEASURING)]


def test_no_test_module_is_imported() -> None:
    """What two of them share is in tests/support."""
    assert {file.name: found for file in FILES if (found := from_test_modules(file.read_text()))} == {}


def test_the_measuring_programs_are_imported_only_by_their_own_tests() -> None:
    """What they share with other tests is in study/common."""
    others = [file for file in FILES if file.parent != ROOT / "tests" / "study"]
    assert {file.name: found for file in others if (found := from_measuring_programs(file.read_text()))} == {}


def test_the_rules_would_notice() -> None:
    source = (
        "from tests.doors.test_streams import x\nfrom tests.doors import test_streams\nimport tests.support.serving\n"
    )
    assert from_test_modules(source) == ["tests.doors.test_streams.x", "tests.doors.test_streams"]
    assert from_measuring_programs("from study.benchmarks.load import load") == ["study.benchmarks.load.load"]
