"""The servers of the comparison, each a process of its own, started as a user would start it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from study.common.client import Target
from study.common.launcher import Process, ServerFailed, launched

EngineKind = Literal["paced", "model"]
WSGI_THREADS = 16
STALL_SECONDS = 1


@dataclass(frozen=True)
class Kind:
    """One column of the table: its name, and how its server is started."""

    name: str
    title: str
    what: str
    command: tuple[str, ...]

    def arguments(self, port: int) -> list[str]:
        """The arguments of `python` that start it."""
        where = ["--bind", f"127.0.0.1:{port}"] if self.command[0] == "gunicorn" else ["--port", str(port)]
        return ["-m", *self.command, *where]


# Gunicorn kills a sync worker that has been busy with one request for 30 s; on a slow machine that is not the question.
GUNICORN = ("gunicorn", "--no-control-socket", "--log-level", "warning", "--graceful-timeout", "1", "--timeout", "300")
UVICORN = ("uvicorn", "--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "1", "--factory")

KINDS = (
    Kind(
        "wsgi_sync",
        "WSGI (1 worker)",
        "raw_wsgi.py, gunicorn, one sync worker",
        (*GUNICORN, "study.compare.apps:raw_wsgi()"),
    ),
    Kind(
        "wsgi_threads",
        f"WSGI ({WSGI_THREADS} threads)",
        f"raw_wsgi.py, gunicorn, one worker of {WSGI_THREADS} threads",
        (*GUNICORN, "--threads", str(WSGI_THREADS), "study.compare.apps:raw_wsgi()"),
    ),
    Kind("article", "the article's", "study/common/article.py, uvicorn", (*UVICORN, "study.compare.apps:article")),
    Kind("starlette", "Starlette", "app.py, uvicorn", (*UVICORN, "study.compare.apps:starlette")),
    Kind("raw_asgi", "raw ASGI", "raw_asgi.py, uvicorn", (*UVICORN, "study.compare.apps:raw_asgi")),
)


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    kind: Kind
    process: Process

    @property
    def target(self) -> Target:
        return self.process.target


@contextmanager
def running(kinds: tuple[Kind, ...], engine: EngineKind) -> Iterator[list[Server]]:
    """Run a server of each kind, all of them ready; end them with the block.

    Raises:
        ServerFailed: one did not start.
    """
    settings = {"COMPARE_ENGINE": engine, "ENGINE_STALL": str(STALL_SECONDS)}
    with ExitStack() as stack:
        servers = [Server(kind, stack.enter_context(launched(kind.arguments, settings))) for kind in kinds]
        for server in servers:
            try:
                server.process.wait_until_ready()
            except ServerFailed as error:
                raise ServerFailed(f"{server.kind.title}: {error}") from None
        yield servers
