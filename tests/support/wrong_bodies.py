"""Bodies of `POST /generate` that must be refused, each with the problems that the refusal must list."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

Problem = tuple[str, tuple[str | int, ...]]


@dataclass(frozen=True)
class WrongBody:
    """`problems` are pairs of a type and a place, the body itself left out of the place, in the order of listing."""

    name: str
    body: bytes
    problems: tuple[Problem, ...]


def _field(name: str, json: str, problem: str, *place: str | int) -> WrongBody:
    return WrongBody(
        f"{name}={json[:40]}", f'{{"prompt": "x", "{name}": {json}}}'.encode(), ((problem, place or (name,)),)
    )


def _whole(name: str, body: bytes, problem: str) -> WrongBody:
    return WrongBody(name, body, ((problem, ()),))


def _all() -> Iterator[WrongBody]:
    yield WrongBody("prompt missing", b"{}", (("missing", ("prompt",)),))
    for json in ("null", "1", "true", '["x"]', "{}"):
        yield WrongBody(f"prompt={json}", f'{{"prompt": {json}}}'.encode(), (("string_type", ("prompt",)),))
    yield WrongBody("prompt empty", b'{"prompt": ""}', (("string_too_short", ("prompt",)),))

    for name in ("max_tokens", "top_k", "seed"):
        for json in ("true", "1.5", "1.0", '"1"', "[1]", "{}"):
            yield _field(name, json, "int_type")
    yield _field("min_tokens", "1.5", "int_type")
    yield _field("max_tokens", "9" * 4300, "less_than_equal")
    yield _field("max_tokens", "0", "greater_than_equal")
    yield _field("max_tokens", "-1", "greater_than_equal")
    yield _field("top_k", "9" * 4300, "less_than_equal")
    yield _field("top_k", "-1", "greater_than_equal")
    yield _field("seed", str(2**63), "less_than_equal")
    yield _field("seed", str(-(2**63) - 1), "greater_than_equal")

    for name in ("temperature", "top_p"):
        for json in ("true", '"1"', "[1]"):
            yield _field(name, json, "float_type")
        for json in ("NaN", "Infinity", "-Infinity", "1e999"):
            yield _field(name, json, "finite_number")
    yield _field("temperature", "-0.1", "greater_than_equal")
    yield _field("temperature", "2.1", "less_than_equal")
    yield _field("top_p", "0", "greater_than")
    yield _field("top_p", "1.1", "less_than_equal")

    for json in ("1", "true", "{}"):
        yield _field("stop", json, "list_type")
    yield _field("stop", '""', "string_too_short", "stop", 0)
    yield _field("stop", '["a", ""]', "string_too_short", "stop", 1)
    yield _field("stop", '["a", 1]', "string_type", "stop", 1)
    yield _field("stop", '["a", null]', "string_type", "stop", 1)
    yield _field("stop", '["a", "b", "c", "d", "e"]', "too_long")

    for name in ("stream", "ignore_eos"):
        for json in ("1", "0", '"true"', "[]"):
            yield _field(name, json, "bool_type")

    for json in ("1", "null", '"x"', "[NaN]", '{"a": [Infinity]}', "1e999", "[" * 100 + "]" * 100):
        yield _field("nonsense", json, "extra_forbidden")
    yield _field("Prompt", '"x"', "extra_forbidden")
    yield _field("", "1", "extra_forbidden", "")

    yield WrongBody(
        "everything at once",
        b'{"prompt": "", "max_tokens": 0, "temperature": 3, "top_p": 0, "top_k": -1, "seed": "1", "stop": 1, '
        b'"ignore_eos": 1, "stream": 1, "nonsense": 1}',
        (
            ("greater_than_equal", ("max_tokens",)),
            ("less_than_equal", ("temperature",)),
            ("greater_than", ("top_p",)),
            ("greater_than_equal", ("top_k",)),
            ("int_type", ("seed",)),
            ("list_type", ("stop",)),
            ("bool_type", ("ignore_eos",)),
            ("string_too_short", ("prompt",)),
            ("bool_type", ("stream",)),
            ("extra_forbidden", ("nonsense",)),
        ),
    )

    for name, body in {"list": b"[]", "string": b'"x"', "number": b"1", "null": b"null", "true": b"true"}.items():
        yield _whole(f"a {name}", body, "model_type")

    malformed = {
        "nothing": b"",
        "blanks": b"  \n",
        "half an object": b'{"prompt": "x"',
        "a trailing comma": b'{"prompt": "x",}',
        "single quotes": b"{'prompt': 'x'}",
        "two values": b'{"prompt": "x"} {}',
        "a lone surrogate": b'{"prompt": "\\ud800"}',
        "a lone surrogate as a name": b'{"prompt": "x", "\\udfff": 1}',
        "invalid UTF-8": b'{"prompt": "\xff"}',
        "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
        "a byte order mark": b'\xef\xbb\xbf{"prompt": "x"}',
        "a control character": b'{"prompt": "\x00"}',
        "a form": b"prompt=x&stream=true",
        "deep nesting": b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "a number of 5,000 digits": b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    }
    for name, body in malformed.items():
        yield _whole(name, body, "json_invalid")


WRONG_BODIES = [pytest.param(body, id=body.name) for body in _all()]
