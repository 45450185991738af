"""`python -m study.scale`: what Ray Serve costs, how it grows, and what a kill does; the tables of docs/scale.md."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from study.common.arguments import argument_parser
from study.common.document import table, write_part
from study.common.launcher import ROOT, launched
from study.scale.chaos import chaos
from study.scale.cluster import ENGINE, cluster
from study.scale.costs import Server, costs, growth

PAGE = ROOT / "docs" / "scale.md"
ALONE, PYTHON_PROXY, HA_PROXY = "uvicorn alone", "Ray's own proxy", "HAProxy"
REPLICAS = (1, 2, 4)


def cost_rows() -> Iterator[list[str]]:
    """One replica behind each proxy, and the same without Ray."""
    with ExitStack() as stack:
        alone = stack.enter_context(launched(uvicorn_alone, ENGINE | {"DOOR": "app"}))
        alone.wait_until_ready()
        servers = {ALONE: Server(alone.port, [alone.popen.pid])}
        for name in (PYTHON_PROXY, HA_PROXY):
            ray = stack.enter_context(cluster(name == HA_PROXY))
            ray.deploy("app")
            servers[name] = Server.of(ray)
        for name, cost in asyncio.run(costs(servers)).items():
            yield [name, *cost.row()]


def uvicorn_alone(port: int) -> list[str]:
    return ["-m", "uvicorn", "--factory", "study.scale.engine:app", "--port", str(port), "--no-access-log"]


def growth_rows() -> Iterator[list[str]]:
    with launched(uvicorn_alone, ENGINE | {"DOOR": "app"}) as alone:
        alone.wait_until_ready()
        yield [ALONE, *asyncio.run(growth(alone.port, 1)).row()]
    for name in (PYTHON_PROXY, HA_PROXY):
        with cluster(name == HA_PROXY) as ray:
            for replicas in REPLICAS:
                ray.deploy("app", replicas)
                yield [name, *asyncio.run(growth(ray.port, replicas)).row()]


def chaos_rows() -> Iterator[list[str]]:
    for ha_proxy in (False, True):
        yield from (result.row() for result in chaos(ha_proxy))


PARTS = {
    "costs": (
        (
            "",
            "GET /health p50 / p99 ms",
            "POST /generate p50 / p99 ms",
            "processor ms per GET",
            "events/s, 1 client",
            "events/s, 16 clients",
            "processor µs per event",
        ),
        cost_rows,
    ),
    "growth": (("proxy", "replicas", "events/s", "the engines' most", "ratio"), growth_rows),
    "chaos": (("proxy", "killed", "the 32 streams", "next answer", "all there again", "left over"), chaos_rows),
}


def parts_of(arguments: Sequence[str]) -> list[str]:
    """The parts that a command line asks for: all, unless it names some."""
    parser = argument_parser(__doc__)
    # With `choices`, argparse takes the default for a choice, and refuses a command line without parts.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parts: list[str] = parser.parse_args(arguments).parts
    if unknown := set(parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return parts or list(PARTS)


def main() -> None:
    for part in parts_of(sys.argv[1:]):
        head, rows_of = PARTS[part]
        rows = []
        for row in rows_of():
            rows.append(row)
            print(part, *row, sep="\t", flush=True)
        write_part(PAGE, part, table(head, rows))


if __name__ == "__main__":
    main()
