"""Fills the marked regions of docs/lesson.md from the files they are about, so that it cannot go stale.

    python docs/make_lesson.py           fill the regions
    python docs/make_lesson.py --run     run every lesson first, and keep what it prints in lessons/printed/

A region stands between `<!-- fill: … -->` and `<!-- end -->`; what is between them belongs to this program:

    <!-- fill: code driver.py Generation.run -->                      the source of one function or class
    <!-- fill: doors stream_events EventStream -->                    of raw_asgi.py and of app.py, side by side
    <!-- fill: lesson 03_an_error_after_the_start -->                 how to run it, what it prints, where to read on

Several names from one file are joined by `+`. A test runs this program and compares.
"""

import argparse
import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = ROOT / "docs" / "lesson.md"
LESSONS = ROOT / "lessons"
PRINTED = LESSONS / "printed"
TIMEOUT = 60.0
"""Seconds that a lesson may take; on an idle machine each takes less than ten."""

_REGION = re.compile(r"(<!-- fill: (\w+) (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_REFERENCE = re.compile(r"([\w/]+\.py): (\w+(?:\.\w+)*)")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def source_of(file: str, name: str) -> str:
    """The source of what `name` defines in `file`, with its decorators, at the left margin.

    Args:
        file: relative to the repository's root.
        name: of a function, a class or a variable; `Class.method` for what is inside one.

    Raises:
        ValueError: the file defines nothing of that name.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    for part in name.split("."):
        found = next((one for one in body if _defines(one, part)), None)
        if found is None:
            raise ValueError(f"{file} defines no {name}; correct the reference, or the name")
        body = getattr(found, "body", [])
    assert isinstance(found, Definition)
    decorators = getattr(found, "decorator_list", [])
    first = decorators[0].lineno if decorators else found.lineno
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : found.end_lineno]))


def references(lesson: str) -> list[tuple[str, str]]:
    """The places in the service that a lesson's docstring names, as file and name."""
    docstring = ast.get_docstring(ast.parse((LESSONS / f"{lesson}.py").read_text(encoding="utf-8"))) or ""
    found = _REFERENCE.findall(docstring.partition("In the service:")[2])
    if not found:
        raise ValueError(f'lessons/{lesson}.py: expected "In the service: file.py: name; …" in the docstring')
    return found


def fill(text: str) -> str:
    """The text with every region made anew."""

    def region(match: re.Match[str]) -> str:
        opening, kind, arguments, closing = match.groups()
        return f"{opening}\n{_KINDS[kind](*arguments.split())}\n\n{closing}"

    return _REGION.sub(region, text)


def run(lesson: str) -> "subprocess.CompletedProcess[str]":
    """Run a lesson by itself, as its reader would."""
    command = [sys.executable, "-X", "utf8", str(LESSONS / f"{lesson}.py")]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=False)


def lessons() -> list[str]:
    """Their names, in reading order."""
    return sorted(file.stem for file in LESSONS.glob("[0-9]*.py"))


def _defines(statement: ast.stmt, name: str) -> bool:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return statement.name == name
        case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
            return target == name
    return False


def _code(file: str, names: str) -> str:
    listed = ", ".join(f"`{name}`" for name in names.split("+"))
    return f"{listed} in [{file}](../{file}):\n\n{_fenced(file, names)}"


def _doors(names_in_raw: str, names_in_app: str) -> str:
    cells = [
        f'<td valign="top">\n\n{_fenced(file, names)}\n\n</td>'
        for file, names in (("raw_asgi.py", names_in_raw), ("app.py", names_in_app))
    ]
    head = '<tr><th><a href="../raw_asgi.py">raw_asgi.py</a></th><th><a href="../app.py">app.py</a></th></tr>'
    return "\n".join(["<table>", head, "<tr>", *cells, "</tr>", "</table>"])


def _lesson(name: str) -> str:
    places: dict[str, list[str]] = {}
    for file, defined in references(name):
        source_of(file, defined)  # it exists
        places.setdefault(file, []).append(f"`{defined}`")
    in_the_service = "; ".join(f"[{file}](../{file}): {', '.join(names)}" for file, names in places.items())
    printed = (PRINTED / f"{name}.txt").read_text(encoding="utf-8")
    return (
        f"[`python lessons/{name}.py`](../lessons/{name}.py) prints\n\n```text\n{printed}```\n\n"
        f"In the service: {in_the_service}."
    )


def _fenced(file: str, names: str) -> str:
    return "```python\n" + "\n\n\n".join(source_of(file, name) for name in names.split("+")) + "\n```"


_KINDS: dict[str, Callable[..., str]] = {"code": _code, "doors": _doors, "lesson": _lesson}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run every lesson, and keep what it prints")
    if parser.parse_args().run:
        PRINTED.mkdir(exist_ok=True)
        for lesson in lessons():
            done = run(lesson)
            if done.returncode or done.stderr:
                raise SystemExit(f"error: {lesson} failed:\n{done.stdout}{done.stderr}")
            (PRINTED / f"{lesson}.txt").write_text(done.stdout, encoding="utf-8")
    TEXT.write_text(fill(TEXT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
