"""What the model knows about: the topics in texts/topics_*.txt, each asked in many ways and answered truthfully.

A text file holds topics like this one; `names` and `plural` feed the general templates below ("What is {x}?"):

    # scope
    names: scope; the ASGI scope
    q: What is in the scope of a request?
    a: The scope is a dict that describes one connection.

Held out: of each topic's own wordings the one whose SHA-256 is smallest, and a sixth of the general templates with
every name. "What is {x}?" is always taught. texts/wordings_*.txt, with many more `q:` lines for each topic, and the
templates of texts/phrasings.txt are taught and never examined.
"""

# ruff: noqa: SIM905 (a list of words reads best as a sentence)

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from training.phrasings import further
from training.split import Case, Example, divide, share

TEXTS = Path(__file__).parent / "texts"

FIRST = "What is {x}?"
ONE = (
    "What's {x}?", "Explain {x}.", "Explain {x} to me.",
    "Tell me about {x}.", "What does {x} mean?", "{x}?", "{x}",
    "Define {x}.", "Describe {x}.",
    "How does {x} work?", "What do you know about {x}?", "Can you explain {x}?",
    "What is {x} for?", "Why {x}?",
    "What is meant by {x}?", "Help me understand {x}.", "What can you say about {x}?",
    "I do not understand {x}.", "Give me a short explanation of {x}.",
    "What exactly is {x}?", "Who needs {x}?",
    "Teach me about {x}.", "What is {x} good for?",
    "What is the point of {x}?", "Could you tell me what {x} is?",
    "Do you know what {x} is?", "What should I know about {x}?", "Say something about {x}.", "Introduce {x}.",
    "Please explain what {x} is.", "What is the idea of {x}?", "I want to learn about {x}.", "So what is {x}?",
    "What is {x} in simple words?", "Explain {x} like I am five.",
    "What is {x} about?", "A question about {x}.",
    "Talk about {x}", "What does one mean by {x}?", "Why do I need {x}?", "Why is there {x}?", "info on {x}",
)  # fmt: skip
MANY_FIRST = "What are {x}?"
MANY = (
    "Explain {x}.", "Tell me about {x}.", "{x}?", "{x}", "Describe {x}.", "How do {x} work?", "Why {x}?",
    "What do you know about {x}?", "Can you explain {x}?", "What are {x} for?", "Help me understand {x}.",
    "What is meant by {x}?", "I do not understand {x}.", "What exactly are {x}?", "Teach me about {x}.",
    "What are {x} good for?", "What is the point of {x}?", "Do you know what {x} are?", "Explain {x} to me.",
    "What should I know about {x}?", "I want to learn about {x}.",
    "Say something about {x}.", "Why are there {x}?",
    "What are {x} in simple words?", "Talk about {x}",
    "A question about {x}.", "What does {x} mean?", "Define {x}.",
)  # fmt: skip
PART = 1 / 6

# Other words for the same: a wording is turned over now and then, so that the words count and not their order.
SWAPS = (
    ("How do I ", "How can I "), ("How do I ", "How to "), ("How do I ", "What must I do to "),
    ("How can I ", "How do I "), ("How can I ", "Is there a way to "), ("What happens if ", "What if "),
    ("What happens when ", "What if "),
    ("What happens when ", "Tell me what happens when "), ("Why does ", "Why would "),
    ("Which ", "What "), ("What is the ", "What's the "),
    ("What does ", "Tell me what "), ("What is ", "Tell me about "),
    ("Why is ", "Tell me why there is "), ("Can I ", "May I "),
    ("Can I ", "Is it possible to "), ("Should I ", "Would you "),
    ("Does ", "Is it true that "), ("Is ", "Would you say that "), ("How does ", "In what way does "),
    (" the client", " the browser"), (" the client", " the user"),
    (" client", " reader"), (" the server", " the service"),
    (" server", " backend"), (" answer", " response"), (" answer", " reply"), (" response", " answer"),
    (" request", " call"), (" stream", " token stream"), (" streams", " open streams"), (" tokens", " pieces"),
    (" model", " LLM"), (" model", " language model"),
    (" the engine", " the model's engine"), (" generation", " decoding"),
    (" left", " went away"), (" leaves", " disconnects"),
    (" gone", " away"), (" start ", " launch "), (" use ", " need "),
    (" called", " named"), (" mean", " stand for"),
    (" happens", " goes on"), (" large", " big"), (" quick", " fast"),
    (" in ASGI", " with ASGI"), (" in ASGI", ""),
    (" each ", " every "), (" many ", " a lot of "), (" wrong", " bad"),
    (" send ", " write "), (" get ", " receive "),
    (" show ", " tell "), (" difference between", " contrast of"),
)  # fmt: skip
LITTLE = frozenset(
    "a an the of to in on for with at by is are do does did can could should would i me my you your it its this that "
    "there what how which why who when has have be so and or about".split()
)


class Topic(NamedTuple):
    """One subject: what it is called, its own wordings, its answers."""

    name: str
    names: tuple[str, ...]
    plural: tuple[str, ...]
    wordings: tuple[str, ...]
    answers: tuple[str, ...]


def parse(path: Path) -> list[Topic]:
    """The topics of one text file; an unknown line is an error."""
    found: list[tuple[str, dict[str, list[str]]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        tag, _, rest = line.partition(" ")
        if tag == "#":
            found.append((rest, {"names:": [], "plural:": [], "q:": [], "a:": []}))
        elif tag in ("names:", "plural:"):
            found[-1][1][tag] += rest.split("; ")
        elif tag in ("q:", "a:"):
            found[-1][1][tag].append(rest.replace("\\n", "\n"))
        elif line.strip():
            raise ValueError(f"{path.name}:{number}: expected #, names:, plural:, q: or a:, but got {line!r}")
    return [Topic(name, tuple(f["names:"]), tuple(f["plural:"]), tuple(f["q:"]), tuple(f["a:"])) for name, f in found]


@cache
def topics() -> list[Topic]:
    """Every topic of every text file, in the order of the files."""
    return [topic for path in sorted(TEXTS.glob("topics_*.txt")) for topic in parse(path)]


@cache
def templates(examined: bool) -> tuple[list[str], list[str]]:
    """The general templates, for one thing and for many: those taught or those held out."""
    (one, one_examined), (many, many_examined) = divide(ONE, PART), divide(MANY, PART)
    if examined:
        return one_examined, many_examined
    return [FIRST, *one, *further("term")], [MANY_FIRST, *many, *further("terms")]


@cache
def general(topic: Topic, examined: bool) -> list[str]:
    """The topic's names in the general templates."""
    one, many = templates(examined)
    texts = [t.format(x=x) for x in topic.names for t in one] + [t.format(x=x) for x in topic.plural for t in many]
    return [text[:1].upper() + text[1:] for text in texts]


def left_out(topic: Topic) -> list[str]:
    """The wording that the training never sees: the one with the smallest SHA-256."""
    return [min(topic.wordings, key=share)] if len(topic.wordings) > 3 else []


@cache
def kept(topic: Topic) -> list[str]:
    """Every wording of the topic that is taught."""
    return [w for w in (*topic.wordings, *further_wordings().get(topic.name, ())) if w not in left_out(topic)]


def turned_over(rng: Random, wording: str) -> str:
    """The wording with one or two swaps."""
    for _ in range(rng.choice((1, 1, 2))):
        fitting = [swap for swap in SWAPS if swap[0] in wording]
        if fitting:
            old, new = rng.choice(fitting)
            wording = wording.replace(old, new, 1)
    return wording


def telegraphic(wording: str) -> str:
    """Only the words that matter, as one types into a search box."""
    kept_words = [word for word in wording.rstrip("?.").split() if word.lower() not in LITTLE]
    return " ".join(kept_words) if len(kept_words) > 1 else wording


@cache
def further_wordings() -> dict[str, tuple[str, ...]]:
    """The wordings of texts/wordings_*.txt, by the topic's name."""
    return {topic.name: topic.wordings for path in sorted(TEXTS.glob("wordings_*.txt")) for topic in parse(path)}


def draw(rng: Random) -> Example:
    """A taught question about a topic: one of its own wordings two times in three."""
    topic = rng.choice(topics())
    others = general(topic, examined=False)
    if others and rng.random() < 0.35:
        question = rng.choice(others)
    else:
        question, dice = rng.choice(kept(topic)), rng.random()
        if dice < 0.25:
            question = turned_over(rng, question)
        elif dice < 0.35:
            question = telegraphic(question)
    return Example("topic", question, rng.choice(topic.answers))


def cases() -> Iterator[Case]:
    """Every topic's held-out wording, and three held-out templates with its names."""
    for topic in topics():
        for question in left_out(topic):
            yield Case("topic, new wording", question, topic.name)
        unseen = sorted(general(topic, examined=True), key=share)
        for question in unseen[:3]:
            yield Case("topic, new template", question, topic.name)
