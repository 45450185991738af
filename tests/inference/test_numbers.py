"""What the compiler makes of vectors of numbers (numbers.hpp)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import inference
from inference.cpp.build import COMPILERS, FLAGS
from inference.decoders.native.sources import DECODER
from tests.support.compilers import needs_compiler

NUMBERS = DECODER.with_name("numbers.hpp")


@needs_compiler
def test_a_number_in_all_lanes_takes_no_addition(tmp_path: Path) -> None:
    """Without AVX-512 gcc 12 adds lane by lane, which took most of a product's time."""
    source = tmp_path / "broadcast.cpp"
    source.write_text(f'#include "{NUMBERS}"\nFloats lanes(float number) {{ return broadcast(number); }}\n')
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS))
    macros = ["-DBF16=0", "-DFORMATS=0"]
    subprocess.run([compiler, *FLAGS, *macros, "-S", source, "-o", tmp_path / "made.s"], check=True, timeout=60)
    instructions = [line.split()[0] for line in (tmp_path / "made.s").read_text().splitlines() if line.startswith("\t")]
    assert instructions
    assert [name for name in instructions if re.match(r"v?(add|sub)[ps]s|f(add|sub)", name)] == []


def test_no_vector_is_made_by_an_addition_to_zeros() -> None:
    sources = [path for kind in ("hpp", "cpp") for path in Path(inference.__file__).parent.rglob(f"*.{kind}")]
    assert NUMBERS in sources
    assert [path.name for path in sources if re.search(r"Floats\{\} [+-] ", path.read_text())] == []
