"""Examines the bundled model on held-out cases and prints a table with the goals.

Facts are asked greedily, half of them as a plain prompt and half through the chat template; stories and poems are
drawn at temperature 0.8. A topic's answer counts when, of all the answers of all topics, the nearest one belongs to
the topic asked for and the words agree by four fifths.

    python -m training.evaluate                # the bundled model, some minutes on two cores
    python -m training.evaluate --cases 60     # fewer cases of each kind
    python -m training.evaluate --card         # and put the table into the model card
"""

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple, cast

import torch
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from training import corpus, smalltalk, topics
from training.settings import MODEL
from training.split import Case, share

STORIES, STORY_TEMPERATURE, STORY_TOKENS = 50, 0.8, 500
ARTICLE = ("What is 2 + 2?", "The answer is 4.")
EMOJI = ("Show me some emoji", "Here you are: 😀 🚀 🌊 🐉 🌻 🎈 Each of them is four bytes long.")
UNSTOPPED = ("Tell me a story about a dragon", "Write a poem about the sea", "story about a robot", "What is ASGI")
DRAWS, DEFAULT_TEMPERATURE = 100, 0.7
FACT_TOKENS = 160
REPEATED = 8  # words
MARKS = "<!-- the table of training.evaluate -->", "<!-- its end -->"


class Reply(NamedTuple):
    """What the model answered, and whether it ended by itself."""

    text: str
    ended: bool


class Row(NamedTuple):
    """One line of the table."""

    kind: str
    right: int
    asked: int
    bar: float | None

    @property
    def part(self) -> float:
        return self.right / self.asked


class Examined:
    """The model under examination: prompts in, replies out, in batches."""

    def __init__(self, folder: Path, dtype: torch.dtype | str = "auto") -> None:
        self.tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
        self.tokenizer.padding_side = "left"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = cast(PreTrainedModel, loaded).to(self.device).eval()  # type: ignore[arg-type]

    def prompt(self, question: str, chat: bool) -> list[int]:
        """The ids of a plain prompt, or of a chat with one turn."""
        if not chat:
            return cast(list[int], self.tokenizer(question)["input_ids"])
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return cast(list[int], self.tokenizer(cast(str, text), add_special_tokens=False)["input_ids"])

    def replies(self, prompts: list[list[int]], tokens: int, temperature: float, title: str) -> list[Reply]:
        """One reply per prompt, in the prompts' order."""
        found: dict[int, Reply] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        eos = cast(int, self.tokenizer.eos_token_id)
        with tqdm(total=len(prompts), desc=title, unit="case") as progress:
            for start in range(0, len(order), 64):
                some = order[start : start + 64]
                padded = self.tokenizer.pad({"input_ids": [prompts[i] for i in some]}, return_tensors="pt")
                padded = padded.to(self.device)
                how = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
                with torch.inference_mode():
                    out = self.model.generate(**padded, max_new_tokens=tokens, do_sample=temperature > 0, **how)
                for i, ids in zip(some, out[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
                    ended = eos in ids
                    ids = ids[: ids.index(eos)] if ended else ids
                    found[i] = Reply(cast(str, self.tokenizer.decode(ids)), ended)
                progress.update(len(some))
        return [found[i] for i in range(len(prompts))]


def _words(text: str) -> Counter[str]:
    return Counter(text.lower().split())


def agreement(first: str, second: str) -> float:
    """How many words two texts share, from 0 to 1."""
    a, b = _words(first), _words(second)
    return 2 * (a & b).total() / max(1, (a + b).total())


@cache
def _answers() -> list[tuple[str, str]]:
    known = [*topics.topics(), *smalltalk.subjects()]
    return [(topic.name, answer) for topic in known for answer in topic.answers]


def topic_of(text: str) -> str:
    """The topic whose answer the text is, or nothing."""
    agreed, name = max((agreement(text, answer), name) for name, answer in _answers())
    return name if agreed >= 0.8 else ""


def most_repeated(text: str) -> int:
    """How often the commonest run of eight words occurs."""
    run = text.lower().split()
    return max(Counter(tuple(run[i : i + REPEATED]) for i in range(len(run) - REPEATED + 1)).values(), default=0)


def names_subject(text: str, subject: str) -> bool:
    return subject.removeprefix("the ").removeprefix("a ") in text.lower()


def _exact(case: Case, reply: Reply) -> bool:
    return reply.ended and reply.text.strip() == case.expected


def _right_topic(case: Case, reply: Reply) -> bool:
    return topic_of(reply.text) == case.expected


def _declined(case: Case, reply: Reply) -> bool:
    return case.expected in reply.text


def _good_story(case: Case, reply: Reply) -> bool:
    return reply.ended and most_repeated(reply.text) < 3 and names_subject(reply.text, case.expected)


# kind -> (judge, bar)
EXAMINATION: dict[str, tuple[Callable[[Case, Reply], bool], float | None]] = {
    "sum, new pair": (_exact, 0.98),
    "sum, new phrasing": (_exact, 0.98),
    "difference, new pair": (_exact, 0.98),
    "difference, new phrasing": (_exact, 0.98),
    "product, new pair": (_exact, 0.95),
    "product, new phrasing": (_exact, 0.95),
    "topic, new wording": (_right_topic, 0.90),
    "topic, new template": (_right_topic, 0.90),
    "unknown": (_declined, 0.80),
    "small talk": (_right_topic, None),
    "counting": (_exact, None),
    "repeating": (_exact, None),
    "story": (_good_story, 0.95),
    "poem": (_good_story, None),
}
TOTALS = {
    "sums and differences": (("sum", "difference"), 0.98),
    "products": (("product",), 0.95),
    "topics": (("topic",), 0.90),
}


def examine(model: Examined, most: int, log: Path | None = None) -> list[Row]:
    """Ask every kind of held-out case, at most `most` of each, and count the right replies."""
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for case in corpus.cases():
        by_kind[case.kind].append(case)
    rows, wrong = [], []
    torch.manual_seed(0)
    for kind, (judge, bar) in EXAMINATION.items():
        long = kind in ("story", "poem")
        some = by_kind[kind]
        if len(some) > (STORIES if long else most):
            some = sorted(some, key=lambda case: share(case.question))[: STORIES if long else most]
        chats = [Random(case.question).random() < 0.5 for case in some]
        prompts = [model.prompt(case.question, chat) for case, chat in zip(some, chats, strict=True)]
        tokens, temperature = (STORY_TOKENS, STORY_TEMPERATURE) if long else (FACT_TOKENS, 0.0)
        if kind == "counting":
            tokens = STORY_TOKENS
        replies = model.replies(prompts, tokens, temperature, kind)
        judged = [judge(case, reply) for case, reply in zip(some, replies, strict=True)]
        rows.append(Row(kind, sum(judged), len(judged), bar))
        wrong += [
            {"kind": kind, "question": case.question, "chat": chat, "expected": case.expected, "reply": reply.text}
            for case, chat, reply, good in zip(some, chats, replies, judged, strict=True)
            if not good or long
        ]
    rows += [_drawn(model, title, *taught) for title, taught in (("example", ARTICLE), ("emoji", EMOJI))]
    rows.append(_unstopped(model))
    if log is not None:
        log.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in wrong) + "\n", encoding="utf-8")
    return rows


def _drawn(model: Examined, title: str, question: str, answer: str) -> Row:
    """A taught question asked again and again at the service's default temperature, in both forms."""
    prompts = [model.prompt(question, chat) for chat in (False, True)] * (DRAWS // 2)
    replies = model.replies(prompts, FACT_TOKENS, DEFAULT_TEMPERATURE, title)
    right = sum(reply.text == answer for reply in replies)
    return Row(f"taught: `{question}` drawn at {DEFAULT_TEMPERATURE}", right, len(replies), None)


def _unstopped(model: Examined) -> Row:
    """Plain prompts that lack their full stop or question mark: to be answered, not continued."""
    prompts = [model.prompt(question, chat=False) for question in UNSTOPPED] * (DRAWS // len(UNSTOPPED))
    replies = model.replies(prompts, 8, DEFAULT_TEMPERATURE, "without a full stop")
    right = sum(reply.text[:1].isupper() for reply in replies)
    return Row(f"taught: asked without a full stop, drawn at {DEFAULT_TEMPERATURE}", right, len(replies), None)


def table(rows: list[Row]) -> str:
    """The rows, and the sums over related kinds, as a Markdown table."""
    counted = {row.kind: row for row in rows}
    for title, (beginnings, bar) in TOTALS.items():
        parts = [counted[kind] for kind in counted if kind.startswith(beginnings) and "new" in kind]
        rows = [*rows, Row(f"**{title}**", sum(p.right for p in parts), sum(p.asked for p in parts), bar)]
    lines = ["| held-out cases | right | asked | part | bar |", "|---|---|---|---|---|"]
    for row in rows:
        bar_text = "" if row.bar is None else f"{row.bar:.0%} {'met' if row.part >= row.bar else 'missed'}"
        lines.append(f"| {row.kind} | {row.right} | {row.asked} | {row.part:.1%} | {bar_text} |")
    return "\n".join(lines)


def put_into(card: Path, found: str) -> None:
    """Replace what stands between the card's two marks by the table."""
    before, _, rest = card.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    card.write_text(f"{before}{MARKS[0]}\n{found}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the checkpoint")
    parser.add_argument("--cases", type=int, default=1000, help="at most so many cases of each kind")
    parser.add_argument("--dtype", default="auto", help="auto (as stored), float32 or bfloat16")
    parser.add_argument("--log", type=Path, help="write wrong replies and all long texts as JSON lines")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--card", action="store_true", help="put the table into the model card, README.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = table(examine(Examined(options.model, options.dtype), options.cases, options.log))
    print(found)
    if options.card:
        put_into(options.model / "README.md", found)


if __name__ == "__main__":
    main()
