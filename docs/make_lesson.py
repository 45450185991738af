"""Makes docs/lesson.md: the introduction, and of each lesson its docstring, what it prints, and where to read on.

    python docs/make_lesson.py           make it
    python docs/make_lesson.py --run     run every lesson first, and keep what it prints in lessons/printed/

A lesson's docstring is its text: the first line is the heading, the paragraphs are Markdown, and the end says

    In the service: raw_asgi.py: stream_events; serving/generation.py: Generation.run.    names to link to
    Side by side: listen_for_disconnect.                    optional; of both doors, where the difference is the point

A test makes the text again and compares, so a name that is gone or a door that has changed is noticed.
"""

import argparse
import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = ROOT / "docs" / "lesson.md"
LESSONS = ROOT / "lessons"
PRINTED = LESSONS / "printed"
NOTE = "<!-- Made by docs/make_lesson.py from the docstrings in lessons/; change it there. -->"
TIMEOUT = 60.0
"""Seconds that a lesson may take; on an idle machine each takes less than ten."""

_REFERENCE = re.compile(r"([\w/]+\.py):\s+(\w+(?:\.\w+)*)")
_SIDE_BY_SIDE = re.compile(r"^Side by side: (\w+)\.$", re.MULTILINE)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def make() -> str:
    """The whole text."""
    introduction = _with_doors((LESSONS / "introduction.md").read_text(encoding="utf-8"))
    return "\n\n".join([NOTE, introduction.strip(), *map(section, lessons())]) + "\n"


def section(lesson: str) -> str:
    """The text of one lesson."""
    heading, paragraphs, places, doors = parts(lesson)
    printed = (PRINTED / f"{lesson}.txt").read_text(encoding="utf-8")
    blocks = [
        f"## {int(lesson[:2])}. {heading.removesuffix('.')}",
        paragraphs,
        f"[`lessons/{lesson}.py`](../lessons/{lesson}.py) prints",
        f"```text\n{printed}```",
        *([doors] if doors else []),
        f"In the service: {', '.join(_link(file, name) for file, name in places)}.",
    ]
    return "\n\n".join(blocks)


def parts(lesson: str) -> tuple[str, str, list[tuple[str, str]], str]:
    """Split a lesson's docstring: the heading, the paragraphs, the places in the service, the doors side by side.

    Raises:
        ValueError: the docstring has no such parts, or names what is not there.
    """
    docstring = ast.get_docstring(ast.parse((LESSONS / f"{lesson}.py").read_text(encoding="utf-8"))) or ""
    heading, _, rest = docstring.partition("\n\n")
    paragraphs, found, end = rest.partition("\n\nIn the service: ")
    end, _, doors = end.partition("\nSide by side: ")
    places = _REFERENCE.findall(end)
    if not found or not places or "\n" in heading:
        raise ValueError(f'lessons/{lesson}.py: expected a heading, paragraphs and "In the service: file.py: name; …"')
    for file, name in places:
        source_of(file, name)
    return heading, paragraphs, places, _doors(doors.removesuffix(".")) if doors else ""


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
        found = next((statement for statement in body if _defines(statement, part)), None)
        if found is None:
            raise ValueError(f"{file} defines no {name}; correct the reference, or the name")
        body = getattr(found, "body", [])
    assert isinstance(found, Definition)
    decorators = getattr(found, "decorator_list", [])
    first = decorators[0].lineno if decorators else found.lineno
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : found.end_lineno]))


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


def _with_doors(text: str) -> str:
    return _SIDE_BY_SIDE.sub(lambda match: _doors(match[1]), text)


def _doors(name: str) -> str:
    """A function of both doors, in two columns."""
    cells = [
        f'<td valign="top">\n\n```python\n{source_of(file, name)}\n```\n\n</td>' for file in ("raw_asgi.py", "app.py")
    ]
    head = '<tr><th><a href="../raw_asgi.py">raw_asgi.py</a></th><th><a href="../app.py">app.py</a></th></tr>'
    return "\n".join(["<table>", head, "<tr>", *cells, "</tr>", "</table>"])


def _link(file: str, name: str) -> str:
    return f"[`{name}` in {file}](../{file})"


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
    TEXT.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
