"""The comparison's sentences follow from its figures: other figures give other sentences."""

import dataclasses
import xml.etree.ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from study.common.client import Health, Pulse, Stream
from study.compare.experiments import QUICK, Article, Departure, Figures, Left, Stuck, Together
from study.compare.findings import findings
from study.compare.pictures import Lane, timeline
from study.compare.report import as_html
from study.compare.results import Result, Run, as_text
from study.compare.servers import KINDS


def together(first: float = 0.1, end: float = 1.0, wait: float = 0.001, headers: float = 0.001) -> Together:
    stream = Stream(0.0, headers, [first, end], end, tokens=2)
    return Together([stream], [Pulse(0.0, wait, Health("ok", 1, 0))], wait)


FIGURES = Figures(
    one=together(),
    many={count: together() for count in QUICK.many},
    left=Left(Departure(6, 0.01), 6, Departure(0, 0.01), Departure(11, 0.01)),
    stuck=Stuck(tokens_made=300, longest_wait=0.001, freed_after=0.2),
    cost=dict.fromkeys(QUICK.cost, 400.0),
)


def a_run(**of_the_first: Any) -> Run:
    """A run of five equal servers, except for the given figures of the first."""
    article = Article(together(), Stream(0.0, 1.0, [1.0], 1.0, tokens=1), Departure(6, 0.01))
    article = of_the_first.pop("article", article)
    results = [
        Result(kind, FIGURES, Article(together(), Stream(0.0, 1.0, [1.0], 1.0, tokens=1), Departure(6, 0.01)))
        for kind in KINDS
    ]
    results[0] = Result(KINDS[0], dataclasses.replace(FIGURES, **of_the_first), article)
    return Run(tuple(results), QUICK, "a model", 12.0, "Python", "python -m compare")


FIRST = KINDS[0].title
ALL = "WSGI (1 worker), WSGI (16 threads), the article's, Starlette and raw ASGI"
OTHERS = "WSGI (16 threads), the article's, Starlette and raw ASGI"


def sentences_of(run: Run) -> list[str]:
    return [sentence for sentences in findings(run).values() for sentence in sentences]


def test_servers_that_do_the_same_are_named_together() -> None:
    sentences = sentences_of(a_run())
    assert f"The first token came long before the end from {ALL}: that is streaming." in sentences
    assert f"The headers came well before the first token from {ALL}." in sentences
    assert f"For a client that left after 5 tokens of a stream, of 100 tokens: 6 made on {ALL}." in sentences
    assert not any("unanswered" in sentence or "only with" in sentence or "still" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("figures", "sentences"),
    [
        (
            {"one": together(first=0.9, headers=0.9, wait=0.8)},
            [
                f"No token came before most of the time was over from {FIRST}.",
                f"The headers came only with the first token from {FIRST}.",
                f"The headers came well before the first token from {OTHERS}.",
                f"With the paced engine, {FIRST} left /health unanswered for up to 800 ms during one stream of "
                "1,000 ms.",
                f"With the paced engine, /health took at most 1.0 ms during one stream on {OTHERS}.",
            ],
        ),
        (
            {"many": {4: together(first=0.5), 20: together(first=0.2)}},
            [
                "Of 4 streams asked for at once, the last had its first token within 100 ms on "
                f"{OTHERS}; after 500 ms on {FIRST}.",
                f"Of 20 streams asked for at once, the last had its first token within 200 ms on {ALL}.",
            ],
        ),
        (
            {"left": Left(Departure(100, 1.5), 99, Departure(1, 0.1), Departure(100, 2))},
            [
                "For a client that left after 5 tokens of a stream, of 100 tokens: "
                f"6 made on {OTHERS}, 100 made on {FIRST}.",
                "For a client that left after 5 tokens while another stream ran, of 100 tokens: "
                f"6 made on {OTHERS}, 99 made on {FIRST}.",
                f"Its request was in the engine for another 1,500 ms on {FIRST}.",
                "For a client that left in the prefill of a stream, of 100 tokens: "
                f"0 made on {OTHERS}, 1 made on {FIRST}.",
                "For a client that left during an answer that is not streamed, of 100 tokens: "
                f"11 made on {OTHERS}, 100 made on {FIRST}.",
            ],
        ),
        (
            {"stuck": Stuck(tokens_made=20, longest_wait=0.5, freed_after=None)},
            [
                f"When a reader stopped reading, its request was still held 0.5 s later by {FIRST}.",
                f"While it did not read, /health did not answer on {FIRST}.",
                f"For the reader that stopped, of 600 tokens: 20 made on {FIRST}, 300 made on {OTHERS}.",
            ],
        ),
        (
            {"cost": {1: 300.0, 4: 500.0}},
            [
                "Processor time per token of 1 at once, cheapest first: 300 µs on WSGI (1 worker), 400 µs on WSGI "
                "(16 threads), 400 µs on the article's, 400 µs on Starlette, 400 µs on raw ASGI.",
            ],
        ),
        (
            {
                "article": Article(
                    together(first=0.2, wait=0.9), Stream(0.0, 2.0, [2.0], 2.0, tokens=1), Departure(100, 1.0)
                )
            },
            [
                "With a model, the first of 10 tokens could be seen after 100 to 200 ms where they were streamed, and "
                "after 1,000 to 2,000 ms where they were not.",
                f"With a model, {FIRST} left /health unanswered for up to 900 ms during one stream of 1,000 ms.",
                f"With a model, for a client that left after 5 of 100 tokens: 6 made on {OTHERS}, 100 made on {FIRST}.",
            ],
        ),
    ],
    ids=["one", "many", "left", "stuck", "cost", "article"],
)
def test_a_server_that_does_otherwise_is_named_apart(figures: dict[str, Any], sentences: list[str]) -> None:
    written = sentences_of(a_run(**figures))
    for sentence in sentences:
        assert sentence in written, "\n".join(written)
    assert not any(sentence in sentences_of(a_run()) for sentence in sentences[:1])


def test_a_cost_too_small_to_measure_or_unknown_is_not_mentioned() -> None:
    costs: list[dict[int, float | None]] = [{1: 1.0, 4: 1.0}, {1: None, 4: None}]
    for cost in costs:
        run = a_run()
        results = tuple(
            dataclasses.replace(result, figures=dataclasses.replace(result.figures, cost=cost))
            for result in run.results
        )
        assert not any(
            "Processor time" in sentence for sentence in sentences_of(dataclasses.replace(run, results=results))
        )


def test_the_table_has_every_server_and_lines_up() -> None:
    lines = as_text(a_run(left=Left(Departure(7, 0.01), 6, Departure(1, 0.01), Departure(100, 1.0)))).splitlines()
    assert all(kind.title in lines[0] for kind in KINDS)
    row = next(line for line in lines if "not streamed  " in line and "…" not in line)
    assert row.split()[2:] == ["100", "11", "11", "11", "11"]
    assert len(row) == len(lines[0])


def test_a_picture_has_a_dot_per_token_and_marks_a_late_health_check() -> None:
    picture = timeline("one & one", [Lane("<first>", together(wait=0.5)), Lane("second", together())])
    root = xml.etree.ElementTree.fromstring(picture)
    assert root.attrib["aria-label"] == "one & one"
    paths = [element.attrib["d"] for element in root.iter() if element.tag.endswith("path")]
    assert [path.count("M") for path in paths] == [2, 2]
    bars = [element.attrib for element in root.iter() if element.tag.endswith("rect")]
    assert [bar["class"] for bar in bars] == ["late", "prompt"]
    assert float(bars[0]["width"]) > 100 * float(bars[1]["width"])


class Page(HTMLParser):
    """Notes what a page would load, and whether its elements close."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_loads_nothing() -> None:
    html = as_html(a_run())
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    assert page.loads == []
    assert "url(" not in html
    assert "@import" not in html
    for sentence in sentences_of(a_run()):
        assert sentence.replace("'", "&#x27;") in html
