"""Sends requests generated from the OpenAPI document, valid and invalid ones, to both doors: `make conformance`.

schemathesis generates the requests, for a real uvicorn with the bundled model, and checks every answer: no 500, no
status, header or content that the document does not describe, no request with wrong types accepted.

One of its checks is off (`positive_data_acceptance`): a valid request may still combine settings that exclude each
other, or exceed the context.

python -m study.conformance [--examples NUMBER]
"""

import subprocess
import sys
from pathlib import Path

from study.common.arguments import argument_parser
from study.common.launcher import launched, uvicorn

DOORS = ("app", "raw_asgi")
CONTEXT = "64"
"""Tokens; so few that every answer is short."""
LIMIT = 1200.0
"""Seconds that one door may take."""
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--examples", default="25", help="requests for each operation and kind (default: 25)")
    options = parser.parse_args()
    failed = [door for door in DOORS if not conforms(door, options.examples)]
    print(f"not as described: {', '.join(failed)}" if failed else "Both doors are as described.")
    sys.exit(bool(failed))


def conforms(door: str, examples: str) -> bool:
    """Whether a door answered as its document says; deviations are printed."""
    print(f"--- {door} ---", flush=True)
    with launched(uvicorn(f"{door}:app", "--log-level", "warning"), {"ENGINE_CONTEXT": CONTEXT}) as server:
        server.wait_until_ready()
        options = [
            *("--max-examples", examples),
            *("--phases", "examples,coverage,fuzzing"),
            *("--exclude-checks", "positive_data_acceptance"),
            *("--request-timeout", "60"),
            "--no-color",
        ]
        command = [str(SCHEMATHESIS), "run", f"http://127.0.0.1:{server.port}/openapi.json", *options]
        return subprocess.run(command, timeout=LIMIT, check=False).returncode == 0


if __name__ == "__main__":
    main()
