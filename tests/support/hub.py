"""A small imitation of the Hugging Face hub on loopback: repositories of files, with revisions, gates and tokens."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAIN = "main"


@dataclass
class Hub:
    """The imitation's repositories, and the requests that it got. A repository in `closed` needs the token `good`."""

    repositories: Mapping[str, Mapping[str, Mapping[str, bytes]]]  # name -> revision -> file -> bytes
    closed: frozenset[str] = frozenset()
    requested: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextlib.contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` at its `endpoint`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requested.append(path)
            parts = path.removeprefix("/api/models").strip("/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            revisions = hub.repositories.get(name)
            if revisions is None:
                return self._send(401, {"X-Error-Code": "RepoNotFound"})
            if name in hub.closed and self.headers.get("Authorization") != "Bearer good":
                return self._send(403, {"X-Error-Code": "GatedRepo"})
            revision = rest[1] if len(rest) > 1 else MAIN
            commits = {_commit(name, known): files for known, files in revisions.items()}
            files = revisions.get(revision, commits.get(revision))
            if files is None:
                return self._send(404, {"X-Error-Code": "RevisionNotFound"})
            commit = next(commit for commit, known in commits.items() if known is files)
            if path.startswith("/api/"):
                tree = [
                    {"type": "file", "path": file, "size": len(data), "oid": _etag(data)}
                    for file, data in files.items()
                ]
                info = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
                body = json.dumps(tree if rest[:1] == ["tree"] else info).encode()
                return self._send(200, {"Content-Type": "application/json"}, body, with_body)
            data = files.get("/".join(rest[2:]))
            if data is None:
                return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            self._send(200, {"X-Repo-Commit": commit, "ETag": f'"{_etag(data)}"'}, data, with_body)

        def _send(self, status: int, headers: Mapping[str, str], body: bytes = b"", with_body: bool = True) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _commit(name: str, revision: str) -> str:
    return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()
