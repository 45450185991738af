"""`python -m study.compare`: run every experiment on every server, print the table, write the report.

python -m study.compare             about two minutes, with the bundled model
python -m study.compare --quick     with few tokens and without that model: to see that everything works
"""

if __name__ == "__main__":
    import serving.quiet_start  # noqa: F401  no traceback at Ctrl-C during the imports below

import asyncio
import json
import sys
import time
from pathlib import Path

from study.common.arguments import argument_parser
from study.common.launcher import ServerFailed
from study.compare import experiments
from study.compare.findings import findings
from study.compare.report import as_html
from study.compare.results import Result, Run, as_text, versions
from study.compare.servers import KINDS, EngineKind, running

RESULTS = Path(__file__).parent / "results"
PROMPT = "Tell me a story about a fox."


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="few tokens, and no model")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder for the report (default: study/compare/results)"
    )
    options = parser.parse_args()
    try:
        run = measure(experiments.QUICK if options.quick else experiments.FULL, options.quick)
    except ServerFailed as error:
        raise SystemExit(f"error: {error}") from None
    print(as_text(run), end="\n\n")
    for title, sentences in findings(run).items():
        print(title, *(f"- {sentence}" for sentence in sentences), sep="\n", end="\n\n")
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.out / "report.html"
    report.write_text(as_html(run))
    (options.out / "report.json").write_text(json.dumps(run.as_dict()))
    print(f"{run.seconds:.0f} s. The pictures are in {report}")


def measure(sizes: experiments.Sizes, quick: bool) -> Run:
    """Run all experiments, one server after the other, so that none disturbs another.

    Raises:
        ServerFailed: one did not start.
    """
    began = time.perf_counter()
    figures = {}
    for kind in KINDS:
        say(f"{kind.title}: {kind.what}")
        with running((kind,), "paced") as (server,):
            figures[kind.name] = asyncio.run(experiments.figures(server, sizes))
    model = "the paced engine in the model's place" if quick else "the bundled model"
    say(f"All five, with {model}")
    paced_prompt = f"pace={sizes.pace} prefill={sizes.prefill_steps}"
    found = articles("paced", paced_prompt, sizes) if quick else articles("model", PROMPT, sizes)
    return Run(
        tuple(Result(kind, figures[kind.name], found[kind.name]) for kind in KINDS),
        sizes,
        model,
        time.perf_counter() - began,
        versions(),
        "python -m study.compare --quick" if quick else "python -m study.compare",
    )


def articles(engine: EngineKind, prompt: str, sizes: experiments.Sizes) -> dict[str, experiments.Article]:
    # Loading is what takes long, and an idle engine takes nothing: so all servers start at the same time.
    with running(KINDS, engine) as servers:
        return {server.kind.name: asyncio.run(experiments.article(server, prompt, sizes)) for server in servers}


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
