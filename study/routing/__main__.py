"""Simulates routers in front of many machines: one load over N replicas, routed in four ways.

    python -m study.routing                   # 8, 100 and 1,000 replicas: writes the table of docs/scale.md
    python -m study.routing --replicas 8      # any other run only prints its rows

The same seed gives the same requests to every router, and the same table each time.
"""

from study.common.arguments import argument_parser
from study.common.document import table, write_part
from study.common.launcher import ROOT
from study.routing.load import conversations, simulate
from study.routing.routers import ROUTERS

PAGE = ROOT / "docs" / "scale.md"
HEAD = ("replicas", "router", "hit rate", "TTFT p50 ms", "TTFT p99 ms", "replica ms per request", "busiest / mean")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 100, 1000])
    parser.add_argument("--load", type=float, default=0.9, help="conversations begun a second, for each replica")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for number in options.replicas:
        load = conversations(number, options.load, options.seconds, options.seed)
        for router in ROUTERS:
            rows.append([f"{number:,}", router, *simulate(router, load, number).row()])
            print(*rows[-1], sep="\t", flush=True)
    if options == parser.parse_args([]):
        write_part(PAGE, "routing", table(HEAD, rows))


if __name__ == "__main__":
    main()
