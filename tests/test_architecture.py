"""Which room may import which. Files are read, not run; what must load quickly is started in a fresh interpreter."""

import ast
import re
import sys
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.imports import modules_after

ROOT = Path(__file__).parent.parent
FRAMEWORKS = {"fastapi", "flask", "gunicorn", "h11", "starlette", "uvicorn"}
LOOPS = {"asyncio", "anyio", "trio"}
HTTP = {"http", "wsgiref", "socketserver", "urllib", "httpx", "httpx2"}
MODELS = {"torch", "transformers", "tokenizers", "safetensors", "numpy"}
DOORS = {"app", "raw_asgi", "raw_wsgi"}
ROOMS = {"backends", "contract", "engine", "inference", "interface", "serving", "study", "training", "lessons", "tests"}
ROOMS |= {"deploy"}


def all_rooms_but(*allowed: str) -> set[str]:
    """The rooms that a place must not import from, the doors included."""
    return (ROOMS | DOORS) - set(allowed)


RULES: dict[str, set[str]] = {
    "app.py": MODELS | all_rooms_but("contract", "serving"),
    "raw_asgi.py": MODELS | FRAMEWORKS | all_rooms_but("contract", "serving"),
    "raw_wsgi.py": MODELS | LOOPS | FRAMEWORKS | all_rooms_but("contract", "serving"),
    "interface": MODELS | LOOPS | FRAMEWORKS | HTTP | {"config"} | all_rooms_but("interface"),
    "contract": MODELS | LOOPS | FRAMEWORKS | HTTP | {"config"} | all_rooms_but("contract", "interface"),
    "serving": MODELS | all_rooms_but("serving", "interface", "backends", "contract", "inference"),
    "serving/driver.py": MODELS | FRAMEWORKS | HTTP | {"contract"},
    "serving/sync_driver.py": MODELS | LOOPS | FRAMEWORKS | HTTP | {"contract"},
    "serving/status.py": MODELS | LOOPS | FRAMEWORKS | HTTP | {"contract"},
    "serving/transcript/wsgi.py": MODELS | LOOPS | FRAMEWORKS,
    "serving/logs.py": MODELS | LOOPS | FRAMEWORKS | HTTP,
    "backends": MODELS | FRAMEWORKS | HTTP | all_rooms_but("backends", "engine", "inference", "interface"),
    "backends/own_engine.py": LOOPS,
    "inference/scheduling": MODELS | {"config"},
    "inference/text": {"torch"},
    "engine.py": LOOPS | FRAMEWORKS | HTTP | all_rooms_but("inference", "interface"),
    "inference": LOOPS | FRAMEWORKS | HTTP | all_rooms_but("inference", "interface"),
    "config.py": MODELS | LOOPS | FRAMEWORKS | HTTP | all_rooms_but(),
    "deploy": MODELS | all_rooms_but("deploy", "serving", "backends"),
    "lessons": all_rooms_but("lessons", "contract", "interface", "serving", "study"),
    "training": all_rooms_but("training"),
    "study/common/engine.py": MODELS | LOOPS | FRAMEWORKS | HTTP | all_rooms_but("interface"),
}


EXCEPTIONS = {"backends/remote.py": {"httpx2"}, "contract/queries.py": {"urllib"}}
"""What one file may import though its room may not."""


PARTS: dict[tuple[str, str], set[str]] = {
    ("serving", "inference"): {"inference.turns"},
    ("backends", "inference"): {"inference.text.text_side", "inference.weights.text_only"},
    ("lessons", "study"): {"study.common.http_servers"},
    ("inference/text", "inference"): {"inference.text"},
    ("inference/scheduling", "inference"): {"inference.scheduling", "inference.text.answer"},
    ("inference/sampling", "inference"): {
        "inference.sampling",
        "inference.scheduling.sample_args",
        "inference.cpp",
        "inference.transfer",
    },
    ("inference/cpp", "inference"): {"inference.cpp", "inference.priorities"},
}
"""The modules of a room that a place may import, where that is only a part of it."""
LIBRARIES: dict[str, set[str]] = {
    "app.py": {"starlette"},
    "raw_asgi.py": set(),
    "raw_wsgi.py": set(),
    "config.py": set(),
    "engine.py": set(),
    "interface": {"pydantic", "typing_extensions"},
    "contract": {"pydantic", "pydantic_core"},
    "inference/scheduling": set(),
}
"""All that a place may import from outside the project and the standard library."""
LOADERS = {"backends/own.py", "backends/own_engine.py"}
"""What loads our own engine knows its parts."""


def files_of(place: str) -> list[Path]:
    """The Python files of a place; the packages that `make clients` installs in one are not ours."""
    path = ROOT / place
    files = [path] if path.suffix == ".py" else path.rglob("*.py")
    return sorted(file for file in files if "node_modules" not in file.parts)


@cache
def modules_of(file: Path) -> frozenset[str]:
    """All modules that a file imports, anywhere in it: in its functions too, and for the types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: expected absolute imports"
            assert node.module is not None
            found |= {module_named(node.module, alias.name) for alias in node.names}
    return frozenset(found)


def module_named(module: str, name: str) -> str:
    """The module that `from module import name` needs: a package's submodule, if the name is one."""
    submodule = f"{module}.{name}"
    return submodule if file_of(submodule) else module


def file_of(module: str) -> Path | None:
    """The file of one of our own modules."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def name_of(file: Path) -> str:
    """The name under which a file is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> set[str]:
    """The top-level names of all modules that a file imports."""
    return {module.partition(".")[0] for module in modules_of(file)}


@pytest.mark.parametrize("place", RULES)
def test_no_room_imports_what_it_must_not_know(place: str) -> None:
    files = files_of(place)
    assert files, f"{place} has no files"
    for file in files:
        name = str(file.relative_to(ROOT))
        assert imports_of(file) & RULES[place] == EXCEPTIONS.get(name, set()), name


@pytest.mark.parametrize("place", LIBRARIES)
def test_the_places_that_need_few_libraries_import_no_others(place: str) -> None:
    known = set(sys.stdlib_module_names) | ROOMS | DOORS | {"config"}
    assert set().union(*map(imports_of, files_of(place))) - known == LIBRARIES[place]


@pytest.mark.parametrize(("place", "room"), PARTS)
def test_of_some_rooms_a_place_knows_only_a_part(place: str, room: str) -> None:
    allowed, met = PARTS[place, room], set()
    for file in files_of(place):
        if (name := str(file.relative_to(ROOT))) not in LOADERS:
            modules = {module for module in modules_of(file) if module.partition(".")[0] == room}
            others = {module for module in modules if not any(module.startswith(part) for part in allowed)}
            assert others == set(), name
            met |= modules
    assert met, f"{place} imports nothing of {room}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """So each can be read, and tested, after those that it imports."""
    files = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in files_of(room))]
    graph = {name_of(file): {module for module in modules_of(file) if file_of(module)} for file in files}
    assert "serving.generation" in graph["serving.driver"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("each of these imports the next: " + ", ".join(reversed(error.args[1])))


def packages() -> list[str]:
    """The packages of all rooms, and of the tests the one with more than tests in it."""
    pages = [file for room in ROOMS - {"tests"} for file in files_of(room) if file.name == "__init__.py"]
    return ["tests/support", *sorted(str(file.parent.relative_to(ROOT)) for file in pages)]


MENTIONED = re.compile(r"`([\w*]+)`|\b(\w+)\.py\b|python -m [\w.]+\.(\w+)")
"""A module on a first page: by its name or a pattern of names, by its file, or by the command that runs it."""


@pytest.mark.parametrize("package", packages())
def test_the_first_page_of_a_package_names_each_of_its_modules(package: str) -> None:
    folder = ROOT / package
    page = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert page is not None
    named = [name for groups in MENTIONED.findall(page) for name in groups if name]
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__", "__main__"}
    modules |= {part.parent.name for part in folder.glob("*/__init__.py")}
    assert {module for module in modules if not any(fnmatch(module, name) for name in named)} == set()


def test_the_map_shows_every_room() -> None:
    shown = (ROOT / "docs" / "structure.md").read_text()
    folders = {room for room in ROOMS - {"tests"} if (ROOT / room).is_dir()}
    assert {room for room in folders if f"`{room}/`" not in shown} == set()


def test_the_rules_would_notice() -> None:
    assert "torch" in imports_of(ROOT / "engine.py") | imports_of(ROOT / "inference" / "model_runner.py")
    assert "starlette" in imports_of(ROOT / "app.py")
    assert "anyio" in imports_of(ROOT / "serving" / "driver.py")


@pytest.mark.parametrize("door", ["app", "raw_asgi"])
def test_importing_a_door_loads_no_model_library(door: str) -> None:
    """So `uvicorn app:app` answers /health at once, and torch, which takes seconds, is loaded meanwhile."""
    loaded = modules_after(f"import {door}")
    assert door in loaded
    assert loaded & (MODELS | {"engine"}) == set()


def test_the_door_made_by_hand_loads_no_framework() -> None:
    assert modules_after("import raw_asgi") & FRAMEWORKS == set()


def test_the_contract_loads_no_server_no_framework_and_no_loop_of_another_kind() -> None:
    assert modules_after("import contract") & (FRAMEWORKS | MODELS | {"anyio", "trio"}) == set()


def test_the_scripted_engine_loads_no_model_library() -> None:
    assert modules_after("import study.common.engine") & (MODELS | {"engine"}) == set()


def test_the_scheduling_loads_no_torch() -> None:
    assert modules_after("import inference.scheduling.scheduler") & MODELS == set()


def defined_names(door: str) -> list[str]:
    """The functions of a door and of its classes, in order."""
    found: list[str] = []
    for node in ast.parse((ROOT / f"{door}.py").read_text()).body:
        if isinstance(node, ast.ClassDef):
            found += [part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
    return found


SHARED_BY_THE_DOORS = [
    "handle",
    "health",
    "openapi",
    "page",
    "read_body",
    "listen_for_disconnect",
    "stream_events",
    "respond",
    "request_id",
    "route_path",
    "dialect",
    "lifespan",
    "create_app",
]
"""What both ASGI doors must have, in this order. The WSGI door has neither a disconnect to hear of nor a lifespan."""


@pytest.mark.parametrize("door", ["app", "raw_asgi", "raw_wsgi"])
def test_the_doors_have_the_same_names_in_the_same_order(door: str) -> None:
    lacking = {"listen_for_disconnect", "lifespan"} if door == "raw_wsgi" else set()
    expected = [name for name in SHARED_BY_THE_DOORS if name not in lacking]
    names = defined_names(door)
    assert [name for name in names if name in SHARED_BY_THE_DOORS] == expected


@pytest.mark.parametrize("door", ["app", "raw_asgi", "raw_wsgi"])
def test_a_door_reads_in_one_sitting(door: str) -> None:
    assert lines_of(ROOT / f"{door}.py") <= 220


def test_a_module_has_at_most_400_lines() -> None:
    files = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in files_of(room))]
    assert {file.name: lines_of(file) for file in files if lines_of(file) > 400} == {}


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines())
