"""Every setting of the service in one frozen object, read once, before anything is built.

A setting is one field of `Config`, or of one of the groups that it is made of. The field gives its default, its range,
its environment variable (`max_streams` is `ENGINE_MAX_STREAMS`) and its command-line flag (`--max-streams`). A part of
the service that needs one group only takes that. An `ENGINE_…` variable that is no setting is an error: a misspelt
limit must not pass for a limit.

    ENGINE_MAX_STREAMS=4 uvicorn app:app
    python app.py --max-streams 4
"""

import dataclasses
import difflib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "2.0.dev0"
BUNDLED_MODEL = Path(__file__).parent / "bundled_model"
PREFIX = "ENGINE_"
STARTUP_FAILURE = 3
"""The exit status with which a worker tells uvicorn, and gunicorn, that another one would fail as well."""
BACKENDS = ("own", "vllm", "sglang", "openai")
"""The values of `backend`; `backends/load.py` has a module for each."""
MOST = 10**9  # of a count: one of 400 digits raises OverflowError, and only once the server runs
MOST_SECONDS = 1e9
"""About 30 years. With ten times as much, waiting on a thread raises OverflowError, and only once the server runs."""
DEVICE_INDICES = frozenset(map(str, range(128)))
"""Those that torch has room for."""
URL = re.compile(r"https?://(\[[^\s/?#\[\]]+\]|[^\s/?#:\[\]]+)(:(?P<port>[0-9]{1,5}))?(/[^\s?#]*)?")
"""A server's address, and perhaps a path."""
LONGEST_SHOWN = 100
"""Characters of a wrong value that an error repeats."""
LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of a path that the system has room for in a Unix socket's address."""
SERVICE_LINK = re.compile(
    r"ENGINE_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)=[\da-fA-F.:]+|PORT(_\d+_[A-Z]+)?=(tcp|udp|sctp)://\S+"
    r"|PORT_\d+_[A-Z]+_(PROTO=(tcp|udp|sctp)|PORT=\d+|ADDR=[\da-fA-F.:]+))"
)
"""The variables, with their values, that Kubernetes sets in every pod for a service whose name is "engine", or begins
with "engine-"."""


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, what it may be, and what came."""


def _quoted(text: str) -> str:
    """A wrong value as an error repeats it."""
    return repr(text[:LONGEST_SHOWN])


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        with suppress(ValueError):  # Python refuses to parse thousands of digits
            if text.strip().isdecimal() and least <= (number := int(text)) <= MOST:
                return number
        raise ConfigError(f"expected a whole number from {least} to {MOST}, got {_quoted(text)}")

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds <= MOST_SECONDS:
        raise ConfigError(f"expected a number of seconds above 0 and up to {MOST_SECONDS:g}, got {_quoted(text)}")
    return seconds


def _text(text: str) -> str:
    if not text.strip():
        raise ConfigError("expected a value, got an empty one; leave it out for the default")
    with suppress(UnicodeEncodeError):
        text.encode()  # answers and the log repeat it
        return text
    raise ConfigError(f"expected text in UTF-8, got {_quoted(text)}")


def _path(text: str) -> str:
    """A path or a name. A shell replaces ~ by the user's home, but not in `--model=~/x`, and not in a systemd unit."""
    return os.path.expanduser(_text(text))


def _socket_path(text: str) -> str:
    path = _path(text)
    if (length := len(os.fsencode(path))) > LONGEST_SOCKET_PATH:
        raise ConfigError(
            f"expected a path of at most {LONGEST_SOCKET_PATH} bytes, as a Unix socket has, got one of {length}: "
            f"{_quoted(path)}"
        )
    return path


def _url(text: str) -> str:
    url = _text(text).strip()
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigError("expected a URL without a user and a password, which the log and /health would repeat")
    found = URL.fullmatch(url)
    if found is None or not 0 < int(found["port"] or 80) < 2**16:
        raise ConfigError(f"expected a URL as in http://127.0.0.1:30000, got {_quoted(text)}")
    return url.rstrip("/")


def _names(text: str) -> str:
    """Names separated by commas; spaces around them do not count."""
    names = [name.strip() for name in _text(text).split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"expected different names, separated by commas, got {_quoted(text)}")
    return ",".join(names)


def _list(text: str, what: str = "names") -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError(f"expected {what}, separated by commas, got none")
    return names


def _matching(pattern: str, expected: str) -> Callable[[str], tuple[str, ...]]:
    """A parser of lists, in lower case. An entry that no request could match is an error."""

    def parse(text: str) -> tuple[str, ...]:
        for entry in (names := _list(text.lower())):
            if not re.fullmatch(pattern, entry):
                raise ConfigError(f"expected {expected}, got {_quoted(entry)}")
        return names

    return parse


def _key(text: str) -> str:
    """An API key, which a header must be able to hold. Errors do not repeat it."""
    key = text.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ConfigError("expected a key of ASCII characters; clients write others in different ways in a header")
    return key


def _keys(text: str) -> tuple[str, ...]:
    keys = _lines_of(Path(_path(text[1:]))) if text.startswith("@") else _list(text, "keys")
    return tuple(_key(key) for key in keys)


def _lines_of(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise ConfigError(f"expected a file with a key on each line: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("expected a file with a key on each line, got one that is not text") from None
    if not lines:
        raise ConfigError("expected a file with a key on each line, got an empty one")
    return lines


def _switch(text: str) -> bool:
    if text not in ("0", "1"):
        raise ConfigError(f"expected 1 (on) or 0 (off), got {_quoted(text)}")
    return text == "1"


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ConfigError(f"expected one of {', '.join(choices)}, got {_quoted(text)}")
        return text

    return parse


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if text in ("auto", "cpu", "cuda") or (kind == "cuda" and index in DEVICE_INDICES):
        return text
    raise ConfigError(f"expected auto, cpu, cuda or cuda:N, got {_quoted(text)}")


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        if any("," in entry for entry in value):
            raise ConfigError("expected values without commas")
        return ",".join(value)
    return str(value)


def _hint(variable: str, known: Collection[str]) -> str:
    """Suggest the flag or the variable with nearly the same name as an unknown one, or else list all of them."""
    if (flag := variable.removeprefix(PREFIX).lower()) in ("host", "port", "workers"):
        return f"it is a flag of the server, --{flag}"
    names = [name.removeprefix(PREFIX) for name in known]
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1, cutoff=0.7)
    return f"did you mean {PREFIX}{near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"


def _setting(default: Any, parse: Callable[[str], Any], help: str, secret: bool = False) -> Any:
    """A field of `Config`."""
    return field(default=default, repr=not secret, metadata={"parse": parse, "help": help})


def _parsed(variable: str, text: str, setting: "dataclasses.Field[Any]") -> Any:
    try:
        return setting.metadata["parse"](text)
    except ConfigError as error:
        raise ConfigError(f"{variable}: {error}") from None


@dataclass(frozen=True)
class ModelSettings:
    """The model, and how it is computed."""

    model: str = _setting(str(BUNDLED_MODEL), _path, "folder, GGUF file or hub name of a causal language model")
    device: str = _setting("auto", _device, "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one")
    dtype: str = _setting(
        "auto",
        _one_of("auto", "float32", "bfloat16", "float16"),
        "auto, float32, bfloat16 or float16; auto is the checkpoint's own, but float32 for float16 on a CPU",
    )
    quantize: str | None = _setting(
        None,
        _one_of("int8", "int4"),
        "int8 or int4 compiles the model with weights of that many bits: less memory, and much faster with few "
        "streams; those of a GGUF file that take no more stay as they are",
    )
    compile: bool = _setting(False, _switch, "compile the model at the start: much shorter steps; needs a C++ compiler")
    compile_cache: str = _setting(
        "auto",
        _path,
        "folder that keeps compiled C++ for the next start; auto is token-by-token in the user's cache, off keeps none",
    )
    generation_config: str = _setting(
        "auto",
        _one_of("auto", "off"),
        "auto uses the sampling defaults of the model's generation config; off ignores them",
    )

    @property
    def is_compiled(self) -> bool:
        """Whether to compile the model. Weights of few bits are only computed with in compiled code."""
        return self.compile or self.quantize is not None


@dataclass(frozen=True)
class EngineSettings(ModelSettings):
    """The engine."""

    backend: str = _setting(
        "own",
        _one_of(*BACKENDS),
        "the engine: own computes in this process, vllm in another; sglang and openai ask a server that runs already",
    )
    backend_url: str | None = _setting(None, _url, "URL of the sglang or openai server, as in http://127.0.0.1:30000")
    backend_key: str | None = _setting(None, _key, "API key of the sglang or openai server, if any", secret=True)
    backend_silence: float = _setting(
        600.0, _seconds, "seconds that the sglang or openai server may send nothing of an answer, before its end"
    )
    max_streams: int = _setting(16, _whole(1), "slots: how many sequences generate at once")
    max_waiting: int = _setting(256, _whole(0), "how many more may wait for a slot; the next one gets a 503")
    context: int | None = _setting(
        None,
        _whole(2),
        "tokens of prompt and answer together; by default as many as the model was made for, if memory allows",
    )
    prefill_chunk: int | None = _setting(
        None,
        _whole(1),
        "most prompt tokens per step while streams decode (up to 4x when few or none do); by default 128, on a GPU "
        "2048",
    )
    speculate: str | None = _setting(
        None,
        _one_of("ngram"),
        "ngram guesses what a text repeats, with compile and few streams: several tokens per step, the same text",
    )
    step_limit: float = _setting(
        300.0, _seconds, "seconds that a step may take before the engine, or its device, counts as stuck"
    )

    @property
    def of_engine(self) -> dict[str, Any]:
        """The settings that are passed to the engine, by name. A backend may refuse one."""
        return {setting.name: getattr(self, setting.name) for setting in dataclasses.fields(EngineSettings)}


@dataclass(frozen=True)
class ClientSettings:
    """Connections and streams: how long each side may take."""

    heartbeat: float = _setting(15.0, _seconds, "seconds of silence after which a stream gets a comment line")
    stall: float = _setting(60.0, _seconds, "seconds that a client may read nothing before it is cut off")
    keep_alive: float = _setting(
        75.0, _seconds, "seconds that an idle connection is kept, longer than clients' pools keep theirs"
    )
    head_limit: float = _setting(20.0, _seconds, "seconds that a request's head may take, from the connection on")
    body_limit: float = _setting(60.0, _seconds, "seconds that a request's body may take; a slower one gets a 408")
    max_connections: int = _setting(4096, _whole(1), "connections at once; a request on one more gets a 503")


@dataclass(frozen=True)
class AccessSettings:
    """Who may ask, and for how much."""

    hosts: tuple[str, ...] = _setting(
        (),
        _matching(r"\*|[a-z0-9._-]+", "names without a scheme, port or path, as in models.example, or * for all"),
        "host names, with commas, that requests may use besides localhost and IP addresses; * allows all",
    )
    api_keys: tuple[str, ...] = _setting(
        (), _keys, "keys, with commas, or @FILE with one a line; each request must then bring one", secret=True
    )
    allow_origins: tuple[str, ...] = _setting(
        (),
        _matching(r"\*|null|[a-z][a-z0-9+.-]*://[a-z0-9._:\[\]-]+", "origins as in https://chat.example, or * for all"),
        "origins, with commas, whose pages may send requests from a browser (CORS); * allows all",
    )
    client_requests: int | None = _setting(
        None, _whole(1), "requests that one key or address may have open at once; one more gets a 429"
    )
    client_tokens: int | None = _setting(
        None, _whole(1), "tokens of prompts and answers per minute for one key or address; above, requests get a 429"
    )


@dataclass(frozen=True)
class Config(AccessSettings, ClientSettings, EngineSettings):
    """The server.

    All settings of the service, in one object: these, and those of the groups above. Build it with `from_environment`
    or from the command line.
    """

    model_name: str | None = _setting(
        None, _names, "names under which the model is served, separated by commas; by default its own"
    )
    socket: str | None = _setting(
        None,
        _socket_path,
        "path of the Unix socket where an engine in a process of its own serves several workers",
    )
    drain: float = _setting(2.0, _seconds, "seconds that open streams get to finish at shutdown")
    on_failure: str = _setting(
        "exit",
        _one_of("exit", "stay"),
        "exit ends the process once the engine has failed for good (status 70) or cannot be loaded (78), for a "
        "supervisor to see; stay leaves it running, with /live and /health failing",
    )
    log_format: str = _setting("text", _one_of("text", "json"), "text for people, or json: one object per line")
    transcript: bool = _setting(
        False,
        _switch,
        "show every message of each request, prompts too: in the terminal and at /transcript/{request_id}",
    )

    @property
    def fingerprint(self) -> str:
        """Names the engine and the weights that answer: while it stays the same, a seed gives the same tokens."""
        engine = (self.backend, self.backend_url, self.device, self.is_compiled)
        weights = (self.model, self.dtype, self.quantize, self.generation_config)
        return f"token-by-token-{VERSION}-{hashlib.sha256(repr((engine, weights)).encode()).hexdigest()[:8]}"

    def to_environment(self) -> dict[str, str]:
        """The environment variables from which `from_environment` reads these settings."""
        values = {setting: getattr(self, setting.name) for setting in dataclasses.fields(self)}
        changed = {setting.name: value for setting, value in values.items() if value != setting.default}
        return {PREFIX + name.upper(): _as_text(value) for name, value in changed.items()}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Config":
        """Read every `ENGINE_…` variable of `environ`.

        Raises:
            ConfigError: a variable is unknown or its value cannot be used.
        """
        settings = {PREFIX + setting.name.upper(): setting for setting in dataclasses.fields(cls)}
        found = {variable: text for variable, text in environ.items() if variable.startswith(PREFIX)}
        for variable in sorted(found.keys() - settings.keys()):
            if not SERVICE_LINK.fullmatch(f"{variable}={found[variable]}"):
                raise ConfigError(f"{variable}: no such setting; {_hint(variable, settings)}")
        return cls(
            **{settings[name].name: _parsed(name, found[name], settings[name]) for name in found if name in settings}
        )

    @classmethod
    def from_environment_or_exit(cls) -> "Config":
        """The same for a program: a mistake in the environment ends the program with one line, without a traceback."""
        try:
            return cls.from_environment()
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(STARTUP_FAILURE) from None
