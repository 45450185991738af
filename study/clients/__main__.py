"""Runs every client against both doors, and writes the results to docs/clients.md.

make clients
python -m study.clients [--model MODEL] [--python FOLDER] [--instructor FOLDER] [--llama-index FOLDER] [--node FOLDER]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.common.arguments import argument_parser
from study.common.launcher import ROOT, launched, uvicorn

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "clients.md"
DOORS = ("app", "raw_asgi")
LIMIT = 1200.0
"""Seconds that one client may take: most need ten, but the machine may be busy."""
MODEL = "bundled_model"

NAMES = {
    "try_openai.py": "openai-python",
    "try_anthropic.py": "anthropic-python",
    "try_langchain.py": "langchain-openai",
    "try_langchain_anthropic.py": "langchain-anthropic",
    "try_litellm.py": "LiteLLM",
    "try_llm.py": "llm",
    "try_pydantic_ai.py": "pydantic-ai",
    "try_agents.py": "openai-agents",
    "try_dspy.py": "DSPy",
    "try_haystack.py": "Haystack",
    "try_guidance.py": "guidance",
    "try_smolagents.py": "smolagents",
    "try_agno.py": "Agno",
    "try_autogen.py": "AutoGen",
    "try_instructor.py": "instructor",
    "try_llama_index.py": "llama-index",
    "try_vllm_bench.py": "vllm bench serve",
    "try_lm_eval.py": "lm-eval (imitated)",
    "try_openai.mjs": "openai-node",
    "try_anthropic.mjs": "@anthropic-ai/sdk",
    "try_ai_sdk.mjs": "Vercel AI SDK",
    "try_agents.mjs": "@openai/agents",
    "try_langchain.mjs": "LangChain.js",
}
OWN_ENVIRONMENTS = {"try_instructor.py": "instructor", "try_llama_index.py": "llama_index"}
"""Which Python programs do not run in the environment of the others, and the option that names theirs."""

HEAD = """\
# Clients

Which client libraries work, unmodified, with both doors on a real uvicorn. `make clients` makes an environment for
them, runs them all and writes this page. Their versions are those of
[requirements.txt](../study/clients/requirements.txt),
[requirements-instructor.txt](../study/clients/requirements-instructor.txt),
[requirements-llama-index.txt](../study/clients/requirements-llama-index.txt) and
[package.json](../study/clients/package.json) in study/clients. From vLLM 0.32.0 come the request functions of its
benchmark, unmodified. lm-eval is imitated: how it sends loglikelihood requests, and how it reads the answers.

Coding agents are too large to be installed for that, and their prompts alone are longer than the bundled model's
context. Claude Code 2.1.197 and 2.1.332, Codex 0.171.0, GitHub Copilot CLI 1.0.102, Cline 3.0.65, Kimi Code 2.1.0,
opencode 1.18.33, Qwen Code 0.24.4, Mistral Vibe 3.0.2, Hermes Agent 0.19.0, Continue's CLI 1.5.47, pi 0.73.1,
mini-swe-agent 2.4.6, gptme 0.35.1, aider 0.86.2 and Open Interpreter 0.4.3 were tried by hand, with an engine that
follows a script and counts only the last message:

```console
$ DOOR=app ENGINE_MODEL_NAME=a-model uvicorn --factory tests.support.serving:scripted_app
$ export ANTHROPIC_BASE_URL=http://127.0.0.1:8000 ANTHROPIC_AUTH_TOKEN=any OPENAI_BASE_URL=http://127.0.0.1:8000/v1
$ claude --model a-model -p hello
$ codex exec -m a-model -c model_provider=local \\
    -c 'model_providers.local={name="local", base_url="http://127.0.0.1:8000/v1", wire_api="responses"}' \\
    'call exec_command {"cmd": "pwd"}'
$ OPENAI_API_KEY=any OPENAI_MODEL=a-model qwen --auth-type openai -p hello
$ COPILOT_OFFLINE=true COPILOT_MODEL=a-model COPILOT_PROVIDER_BASE_URL=http://127.0.0.1:8000/v1 copilot -p hello
$ cline auth -p openai -k any -m a-model -b http://127.0.0.1:8000/v1
$ cline -P openai-compatible -m a-model 'say hello'
```

Each answers; Claude Code, Codex, Copilot, Cline, Kimi Code, Qwen Code, Vibe and Hermes call a tool, too, and go on with
its result. (Some put other text after the question, so the script does not see a call; theirs came from one that looks
for it.) Copilot, Kimi Code and Vibe were tried with each of the three APIs (`COPILOT_PROVIDER_TYPE`,
`COPILOT_PROVIDER_WIRE_API`; a provider's `type` or `api_style` in `config.toml`). opencode has its provider in
`opencode.json`: the package `@ai-sdk/openai-compatible`, with `baseURL`. Continue has its model in `config.yaml`, with
`provider: openai` (or `anthropic`) and `apiBase: http://127.0.0.1:8000/v1`. Codex uses WebSockets only if its provider
says `supports_websockets`; this server has none, and Codex goes on over HTTP.

Open WebUI 0.12.4 was tried by hand, too: its page in a browser, and its own API. It finds the model by itself:

```console
$ OPENAI_API_BASE_URLS=http://127.0.0.1:8000/v1 OPENAI_API_KEYS=any ENABLE_OLLAMA_API=false open-webui serve --port 8080
```

Its page offers tools of its own in every chat, of some 5,000 tokens: more than the bundled model's context.

So were LangGraph 1.2.24 and LangGraph.js 1.7.3, Strands Agents 1.62.0, Semantic Kernel 1.45.0, griptape 1.13.0,
magentic 0.41.1, outlines 1.3.3, Inspect 0.3.285, BeeAI 0.1.85, chatlas 0.23.0, Mirascope 2.8.2, any-llm 1.40.2, aisuite
0.2.0, the Claude Agent SDK 0.2.189, LibreChat's agents 3.2.21, VoltAgent 2.10.0, Ax 24.0.21, Token.js 0.7.1,
multi-llm-ts 5.1.1, promptfoo 0.121.20, Mastra 1.71.0, Genkit 1.42.0, LlamaIndex.TS 0.12.1, Google's ADK 2.13.0, CrewAI
1.15.30, Microsoft's Agent Framework 1.23.0, huggingface_hub 2.4.0 (with a `base_url`), @huggingface/inference 4.13.30,
Effect's @effect/ai-openai 0.41.0 and @effect/ai-anthropic 0.27.0, TanStack AI 0.58.0, xsAI 0.4.4, OpenRouter's SDK
1.3.19 (chat and responses), Together's Python SDK 2.36.0 and the AI SDK's providers for OpenRouter, Groq, DeepSeek,
Mistral, xAI and Together AI: answers whole and streamed, and, where they have them, tools and structured output. CAMEL
0.2.90 was tried with whole answers, tools and structured output, ShellGPT 1.5.1 with streams, and the benchmarks
guidellm 0.8.1 and aiperf 0.13.0 with short runs. Older official clients work, too: openai-python 0.28.1, 1.3.9, 1.55.3
and 2.0.0, and anthropic-python 0.8.1, 0.34.2 and 0.60.0.

Images, sound and files are more than a text model can read. A question about them is refused with a 400. In the result
of a tool, next to one, and in earlier turns a note stands in for them, in all three APIs: an agent's screenshot does
not end its conversation, and the model knows that it has not seen it.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one attempt of a client at a door."""

    client: str
    door: str
    what: str
    passed: bool
    note: str


def main() -> None:
    options = _arguments()
    outcomes: list[Outcome] = []
    for door in DOORS:
        settings = {"ENGINE_MODEL_NAME": MODEL, "ENGINE_COMPILE": "1"}
        settings |= {"ENGINE_MODEL": options.model} if options.model else {}
        with launched(uvicorn(f"{door}:app"), settings) as server:
            server.wait_until_ready()
            base = f"http://127.0.0.1:{server.port}"
            for program, name in NAMES.items():
                outcomes += _tried(name, door, _command(program, options), base)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} went through")
    if not options.model:
        PAGE.write_text(_page(outcomes))
    sys.exit(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", help="what to serve instead of the bundled model; writes no page")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv-clients", help="environment of the Python clients")
    parser.add_argument("--instructor", type=Path, default=ROOT / ".venv-instructor", help="environment of instructor")
    parser.add_argument(
        "--llama-index", type=Path, default=ROOT / ".venv-llama-index", help="environment of llama-index"
    )
    parser.add_argument("--node", type=Path, default=HERE, help="folder with the programs and their node_modules")
    return parser.parse_args()


def _command(program: str, options: argparse.Namespace) -> list[str]:
    """How to start a client's program."""
    if program.endswith(".mjs"):
        return [str(options.node / "node_modules" / ".bin" / "node"), str(options.node / program)]
    environment: Path = getattr(options, OWN_ENVIRONMENTS.get(program, "python"))
    return [str(environment / "bin" / "python"), "-m", f"study.clients.{Path(program).stem}"]


def _tried(client: str, door: str, start: Sequence[str], base: str) -> Iterator[Outcome]:
    """Start a client, and yield the result of each attempt."""
    environ = os.environ | {"OPENAI_API_KEY": "any", "ANTHROPIC_API_KEY": "any"}
    try:
        done = subprocess.run(
            [*start, base, MODEL], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield _reported(Outcome(client, door, "start", False, str(error)[:200]))
        return
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    if done.returncode != 0 or not lines:
        lines.append({"what": "start", "passed": False, "note": done.stderr[-200:]})
    for line in lines:
        yield _reported(Outcome(client, door, **line))


def _reported(outcome: Outcome) -> Outcome:
    mark = "ok    " if outcome.passed else "FAILED"
    print(f"{mark} {outcome.door:<9} {outcome.client:<20} {outcome.what:<45} {outcome.note[:60]!r}", flush=True)
    return outcome


def _page(outcomes: Sequence[Outcome]) -> str:
    """The table, one row for each thing that a client tried."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for outcome in outcomes:
        mark = "yes" if outcome.passed else f"no: {outcome.note}".replace("|", "\\|").replace("\n", " ")
        rows.setdefault((outcome.client, outcome.what), {})[outcome.door] = mark
    lines = [
        f"| {client} | {what} | {' | '.join(row.get(door, '') for door in DOORS)} |"
        for (client, what), row in rows.items()
    ]
    doors = " | ".join(f"`{door}.py`" for door in DOORS)
    return "\n".join([HEAD, f"| client | what it tried | {doors} |", "|---|---|---|---|", *lines, ""])


if __name__ == "__main__":
    main()
