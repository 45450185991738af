"""The figures of one run, and the table of them."""

import dataclasses
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from study.compare.experiments import (
    LEAVE_AFTER,
    LEAVE_AFTER_STEPS,
    LEAVE_PREFILL_STEPS,
    STUCK_TOKEN_BYTES,
    Article,
    Figures,
    Sizes,
)
from study.compare.servers import STALL_SECONDS, Kind

PACKAGES = ("gunicorn", "uvicorn", "starlette", "fastapi", "anyio", "uvloop", "httptools")


@dataclass(frozen=True)
class Result:
    """The results of one server."""

    kind: Kind
    figures: Figures
    article: Article


@dataclass(frozen=True)
class Run:
    """The results of all servers, and the versions and machine that they ran on."""

    results: tuple[Result, ...]
    sizes: Sizes
    model: str
    seconds: float
    versions: str
    command: str

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Section:
    """A part of the table: a heading, what was done, and a row for each figure."""

    title: str
    what: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def versions() -> str:
    """The versions of Python and packages. Those that are not installed are left out, uvloop for example."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{', '.join(found)}; {os.cpu_count()} cores, {platform.system()}"


def sections(run: Run) -> list[Section]:
    many = [_many(run, count) for count in run.sizes.many]
    return [_article(run), _one(run), *many, _leaving(run), _stuck(run), _cost(run)]


def _article(run: Run) -> Section:
    row = partial(_row, run)
    return Section(
        "What the article measured",
        f"With {run.model}: {run.sizes.article} tokens, streamed and not; then a client that leaves after "
        f"{LEAVE_AFTER} of {run.sizes.left}.",
        (
            row("first visible token, ms", lambda result: ms(result.article.stream.last_first_token)),
            row("… not streamed, ms", lambda result: ms(result.article.unstreamed.ended_at)),
            row("total time, ms", lambda result: ms(result.article.stream.end)),
            row("longest wait for /health, ms", lambda result: ms(result.article.stream.longest_wait)),
            row("tokens made for who left", lambda result: str(result.article.left.tokens_made)),
        ),
    )


def _one(run: Run) -> Section:
    row, sizes = partial(_row, run), run.sizes
    return Section(
        "One stream",
        f"A prefill of {sizes.pace * sizes.prefill_steps} ms, then {sizes.one} tokens, one every {sizes.pace} ms.",
        (
            row("headers after, ms", lambda result: ms(result.figures.one.streams[0].headers_at)),
            row("first token after, ms", lambda result: ms(result.figures.one.last_first_token)),
            row("end after, ms", lambda result: ms(result.figures.one.end)),
            row("longest wait for /health, ms", lambda result: ms(result.figures.one.longest_wait)),
        ),
    )


def _many(run: Run, count: int) -> Section:
    row = partial(_row, run)
    return Section(
        f"{count} streams at once",
        f"{run.sizes.many[count]} tokens each, one every {run.sizes.pace} ms, without a prefill.",
        (
            row("last first token after, ms", lambda result: ms(result.figures.many[count].last_first_token)),
            row("all ended after, ms", lambda result: ms(result.figures.many[count].end)),
            row("longest wait for /health, ms", lambda result: ms(result.figures.many[count].longest_wait)),
        ),
    )


def _leaving(run: Run) -> Section:
    row, sizes = partial(_row, run), run.sizes
    return Section(
        "A client that leaves",
        f"How many of {sizes.left} tokens, one every {sizes.pace} ms, the engine made for it in all, and when its "
        f"request was out of the engine. The prefill lasts {sizes.pace * LEAVE_PREFILL_STEPS} ms; that client, and "
        f"the one whose answer is not streamed, leave after {sizes.pace * LEAVE_AFTER_STEPS} ms.",
        (
            row(f"after {LEAVE_AFTER} tokens", lambda result: str(result.figures.left.after_tokens.tokens_made)),
            row("… ended after, ms", lambda result: ms(result.figures.left.after_tokens.freed_after)),
            row(f"after {LEAVE_AFTER}, during another stream", lambda result: str(result.figures.left.during_another)),
            row("in the prefill", lambda result: str(result.figures.left.in_prefill.tokens_made)),
            row("… ended after, ms", lambda result: ms(result.figures.left.in_prefill.freed_after)),
            row("not streamed", lambda result: str(result.figures.left.unstreamed.tokens_made)),
            row("… ended after, ms", lambda result: ms(result.figures.left.unstreamed.freed_after)),
        ),
    )


def _stuck(run: Run) -> Section:
    row, sizes = partial(_row, run), run.sizes
    return Section(
        "A reader that stops reading",
        f"It stays connected for {sizes.stuck_seconds:g} s, while {sizes.stuck} tokens of {STUCK_TOKEN_BYTES:,} "
        f"bytes are to come, one every {sizes.stuck_pace} ms. ENGINE_STALL is {STALL_SECONDS} s here, not 60.",
        (
            row("tokens the engine made", lambda result: str(result.figures.stuck.tokens_made)),
            row("request ended after, s", lambda result: seconds_or_held(result.figures.stuck.freed_after)),
            row("longest wait for /health, ms", lambda result: ms(result.figures.stuck.longest_wait)),
        ),
    )


def _cost(run: Run) -> Section:
    return Section(
        "Cost per message",
        "Processor time of the server for a token that costs its engine nothing, in µs.",
        tuple(_row(run, f"{count} at once", _cost_of(count)) for count in run.sizes.cost),
    )


def _cost_of(count: int) -> Callable[[Result], str]:
    return lambda result: micro(result.figures.cost[count])


def _row(run: Run, label: str, cell: Callable[[Result], str]) -> tuple[str, tuple[str, ...]]:
    return label, tuple(cell(result) for result in run.results)


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.01 else f"{1e3 * seconds:.1f}"


def micro(microseconds: float | None) -> str:
    return "?" if microseconds is None else f"{microseconds:.0f}"


def seconds_or_held(seconds: float | None) -> str:
    return "held" if seconds is None else f"{seconds:.1f}"


def as_text(run: Run) -> str:
    """The table for a terminal."""
    titles = [result.kind.title for result in run.results]
    width = max(len(title) for title in titles) + 2
    lines = [" " * 32 + "".join(title.rjust(width) for title in titles)]
    for section in sections(run):
        lines += ["", section.title, f"  {section.what}"]
        lines += [f"  {label:<30}" + "".join(cell.rjust(width) for cell in cells) for label, cells in section.rows]
    return "\n".join(lines)
