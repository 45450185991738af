"""What the compiler makes of vectors of numbers (numbers.hpp)."""

import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import inference
from inference.cpp.build import FLAGS, compiler_command
from inference.decoders.native import sources
from inference.decoders.native.sources import DECODER, KERNELS
from inference.weights.formats import FORMATS
from tests.support.compilers import needs_compiler
from tests.support.native_models import INSTRUCTIONS

NATIVE = DECODER.parent
NUMBERS, PRODUCTS = NATIVE / "numbers.hpp", NATIVE / "products.hpp"
AVX2 = INSTRUCTIONS["AVX2 alone"].split()
AT_HAND = INSTRUCTIONS if platform.machine() == "x86_64" else {"this machine's": ""}


def instructions_of(folder: Path, code: str, flags: Sequence[str] = (), **macros: int) -> list[str]:
    """What the compiler makes of a source in C++: the assembly's instructions, in order."""
    source, made = folder / "source.cpp", folder / "made.s"
    source.write_text(code)
    macros = {"BF16": 0, "FORMATS": 0, "HAS_PLAIN": 1, "PAST_CACHES": 0, "READS_AHEAD": 0, "ONE_PRODUCT": 0} | macros
    defined = [f"-D{name}={value}" for name, value in macros.items()]
    subprocess.run([*compiler_command(), *FLAGS, *flags, *defined, "-S", source, "-o", made], check=True, timeout=60)
    found = [line.strip() for line in made.read_text().splitlines() if re.match(r"\t[^.]", line)]
    assert found
    return found


@needs_compiler
@pytest.mark.parametrize("flags", AT_HAND.values(), ids=AT_HAND)
def test_a_number_in_all_lanes_takes_no_addition(flags: str, tmp_path: Path) -> None:
    """Without AVX-512 gcc 12 adds lane by lane, which took most of a product's time."""
    code = f'#include "{NUMBERS}"\nvoid fill(float number, float *to) {{ store(to, broadcast(number)); }}\n'
    instructions = [line.split()[0] for line in instructions_of(tmp_path, code, flags.split())]
    assert [name for name in instructions if re.match(r"v?(add|sub)[ps]s|f(add|sub)", name)] == []


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of other processors")
@pytest.mark.parametrize("bfloat16", [False, True])
def test_with_avx2_alone_the_sums_of_a_product_stay_in_registers(bfloat16: bool, tmp_path: Path) -> None:
    code = f'''#include "{PRODUCTS}"
        void product(const Weight *panel, const Weight *x, int64_t inputs, float (*sums)[PANEL]) {{
            multiply_rows<ROWS_AT_ONCE>(panel, x, inputs, sums);
        }}
    '''
    made = instructions_of(tmp_path, code, AVX2, BF16=int(bfloat16))
    multiplying = [place for place, line in enumerate(made) if line.startswith("vfmadd")]
    loop = made[multiplying[0] : multiplying[-1] + 1]
    assert [line for line in loop if re.search(r"\(%r[sb]p\)", line) and not re.match(r"vmov\w+\s+%", line)] == []


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of other processors")
@pytest.mark.parametrize("format", ["Q8_0", "Q6_K"])
def test_with_avx2_alone_codes_are_multiplied_in_vectors_and_not_lane_by_lane(format: str, tmp_path: Path) -> None:
    made = instructions_of(tmp_path, f'#include "{KERNELS}"\n', AVX2, BF16=1, FORMATS=1 << FORMATS[format].number)
    assert any(line.startswith("vpmaddwd") for line in made)
    assert [line for line in made if line.startswith(("vpmulld", "vpextr", "vpinsr"))] == []


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are those of x86-64")
@pytest.mark.parametrize(("past_caches", "expected"), [(0, "prefetcht1"), (1, "prefetchnta")])
def test_weights_come_past_the_caches_or_into_the_second_level(past_caches: int, expected: str, tmp_path: Path) -> None:
    code, bit = f'#include "{KERNELS}"\n', 1 << FORMATS["Q4_K"].number
    made = instructions_of(tmp_path, code, BF16=1, FORMATS=bit, PAST_CACHES=past_caches)
    assert {line.split()[0] for line in made if line.startswith("prefetch")} == {expected}


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these instructions are those of x86-64")
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_is_not_asked_for_where_the_processor_reads_ahead(format: str, rows: int, tmp_path: Path) -> None:
    """Two rows of Q8_0 are not, either; Q2_K, Q3_K and Q6_K are asked for into the first-level cache."""
    number = FORMATS[format].number
    code = f"""#include "{NATIVE / "quantized.hpp"}"
    void ask(const uint8_t *from) {{
        with_format({number}, [&](auto format) {{ prefetch<decltype(format), {rows}>(from, 128); }});
    }}"""
    made = instructions_of(tmp_path, code, BF16=1, FORMATS=1 << number, READS_AHEAD=1)
    alone = ["prefetcht0"] * 2 if format in ("Q2_K", "Q3_K", "Q6_K") else []
    expected = alone if rows == 1 or format == "Q8_0" else ["prefetcht1"] * 2
    assert [line.split()[0] for line in made if line.startswith("prefetch")] == expected


@pytest.mark.parametrize(
    ("processor", "past_caches", "is_zen_4"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 17\n", True, False),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n", False, True),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 97\n", False, True),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n", False, False),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 17\n", False, False),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 17\n", False, False),
        ("CPU implementer\t: 0x41\n", False, False),
        (None, False, False),
    ],
)
def test_processors_read_and_multiply_in_the_way_that_was_measured_on_their_kind(
    processor: str | None, past_caches: bool, is_zen_4: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "cpuinfo"
    if processor is not None:
        listed.write_text(f"processor\t: 0\n{processor}model name\t: AMD EPYC\n")
    monkeypatch.setattr(sources, "CPUINFO", listed)
    expected = {"PAST_CACHES": int(past_caches), "READS_AHEAD": int(is_zen_4), "ONE_PRODUCT": int(is_zen_4)}
    units = sources.decoder_units(True, [8], False, head_dim=64, group=3)
    assert [{name: unit.definitions[name] for name in expected} for unit in units] == [expected] * 2


def test_no_vector_is_made_by_an_addition_to_zeros() -> None:
    sources = [path for kind in ("hpp", "cpp") for path in Path(inference.__file__).parent.rglob(f"*.{kind}")]
    assert NUMBERS in sources
    assert [path.name for path in sources if re.search(r"Floats\{\} [+-] ", path.read_text())] == []
