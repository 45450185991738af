"""A program that is started without standard streams, as some supervisors do."""

import subprocess
import sys
from pathlib import Path

from tests.support.asgi_client import PATIENCE

PROGRAM = """
import os, subprocess, sys
from serving import command_line
command_line.open_closed_streams()
with open(sys.argv[1], "w") as file:
    print("printed")
    print("an error", file=sys.stderr)
    os.write(2, b"a library's error")
    print(sys.stdin.read(), file=file)
subprocess.run([sys.executable, "-c", "import sys; sys.stdout.flush(); sys.stderr.flush()"], check=True)
"""


def test_what_such_a_program_prints_reaches_no_file_and_its_processes_have_streams_too(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    command = ["sh", "-c", 'exec "$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, PROGRAM, str(kept)]
    assert subprocess.run(command, timeout=10 * PATIENCE, check=False).returncode == 0
    assert kept.read_text() == "\n"
