"""Tries architectures on this engine: all of them, to write docs/models.md, or some.

python -m study.architectures               # writes docs/models.md
python -m study.architectures llama phi3    # prints these rows
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import transformers

from inference.tensor_thread import on_tensor_thread
from inference.weights.quiet import quiet
from study.architectures.checkpoints import MODEL_TYPES
from study.architectures.sweep import CHUNK, EQUAL, LENGTHS, REFUSED, Verdict, examine
from study.common.arguments import argument_parser

TABLE = Path(__file__).parents[2] / "docs" / "models.md"


def main(model_types: Iterable[str]) -> None:
    verdicts: dict[str, Verdict] = {}
    with quiet():
        for model_type in model_types or MODEL_TYPES:
            verdict = verdicts[model_type] = on_tensor_thread(lambda name=model_type: examine(name))  # type: ignore[misc]
            print(_row(model_type, verdict), flush=True)
    if not model_types:
        TABLE.write_text(document(verdicts))


def document(verdicts: Mapping[str, Verdict]) -> str:
    served = sum(verdict.outcome.startswith(EQUAL) for verdict in verdicts.values())
    refused = sum(verdict.outcome.startswith(REFUSED) for verdict in verdicts.values())
    lengths = ", ".join(str(length) for length in sorted(LENGTHS))
    rows = "\n".join(_row(model_type, verdict) for model_type, verdict in sorted(verdicts.items()))
    return f"""# Models

Every causal language model of transformers {transformers.__version__} and every model that sees or hears as well,
{len(verdicts)} of them, tried on a small random checkpoint in float32: {served} are served, with texts only, {refused}
are refused with the reason, and for the rest there is no small checkpoint. "{EQUAL[0].upper()}{EQUAL[1:]}" means that
greedy answers to prompts of {lengths} tokens, prefilled in chunks of {CHUNK}, are those of transformers' own
`generate`, alone and together.

The server makes a shorter check at every start, on the real weights: a text in pieces, next to another one, must give
the logits that the model gives alone, also beyond every length that its config names within the context. `python -m
inference.check MODEL` does that for a checkpoint, and says what the server would do with it.

This file is made by `python -m study.architectures`. A test compares it with the engine.

| model_type | class | decoder | outcome |
|---|---|---|---|
{rows}
"""


def read_table(text: str | None = None) -> dict[str, Verdict]:
    """The verdicts that a document has, by default docs/models.md."""
    lines = (TABLE.read_text() if text is None else text).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    return {
        model_type.strip("| `"): Verdict(class_name.strip(), decoder.strip(), outcome.removesuffix(" |").strip())
        for model_type, class_name, decoder, outcome in rows
    }


def _row(model_type: str, verdict: Verdict) -> str:
    return f"| `{model_type}` | {verdict.class_name} | {verdict.decoder} | {verdict.outcome.replace('|', '/')} |"


if __name__ == "__main__":
    parser = argument_parser(__doc__)
    parser.add_argument("model_types", nargs="*", metavar="MODEL_TYPE", help="by default all")
    main(parser.parse_args().model_types)
