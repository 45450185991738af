"""Send tokens as JSON: a line break in a token breaks the event.

Server-sent events are lines: `data: ` and a text; an empty line ends the event (HTML standard, section 9.2). A token
may be a line break, or contain one. Sent as it is, it ends the line or the event, and what follows is lost or becomes
another event. Nothing fails, but the client's text is not the model's. JSON writes a line break as two characters, a
backslash and an n.

Lines end at CRLF, LF or CR and nowhere else. Python's `str.splitlines()` also splits at U+2028 and others, which JSON
need not escape. So a client that uses it breaks events apart, unless the JSON is written in ASCII.

In the service: contract/sse.py: frame.
"""

import _start

import json
import re

TOKENS = ["def f():", "\n", "    pass", "  # one\n  # two", "\n\ndata: three", "\r", "\u2028"]


def parse(stream: str) -> list[str]:
    return parse_lines(re.split("\r\n|\n|\r", stream))


def parse_lines(lines: list[str]) -> list[str]:
    """The data of each event, by section 9.2.6; of the fields, only `data` matters here."""
    events: list[str] = []
    data: list[str] = []
    for line in lines:
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            events.append("\n".join(data))
            data = []
    return events  # an event without its empty line is dropped


def show(name: str, received: list[str]) -> None:
    verdict = "the same" if received == TOKENS else "not the same"
    print(f"{name}: {len(TOKENS)} tokens sent, {len(received)} received, {verdict}")
    print(f"    {''.join(received)!r}")


def token(event: str) -> str:
    try:
        return str(json.loads(event)["token"])
    except ValueError:
        return "(not JSON)"


def framed(ensure_ascii: bool) -> str:
    return "".join(f"data: {json.dumps({'token': token}, ensure_ascii=ensure_ascii)}\n\n" for token in TOKENS)


print(f"sent: {''.join(TOKENS)!r}")
show("as it is", parse("".join(f"data: {token}\n\n" for token in TOKENS)))
show("as JSON, read by str.splitlines()", [token(event) for event in parse_lines(framed(False).splitlines())])
show("as JSON", [token(event) for event in parse(framed(False))])
show("as JSON in ASCII, read by str.splitlines()", [token(event) for event in parse_lines(framed(True).splitlines())])
