"""The files in deploy/ pass the checks of the programs that read them, and a stream goes through each proxy.

Where nginx, Caddy or systemd are missing, there is nothing to check. `.ci/run` installs them, and sets REQUIRE_DEPLOY:
then a missing one is a failure.
"""

import getpass
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config import Config
from contract import MAX_BODY_BYTES
from study.common.launcher import Process, status_of
from tests.support.asgi_client import PATIENCE
from tests.support.http_client import Connection
from tests.support.servers import kept_port
from tests.support.serving import DOORS, in_a_process, wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"))


def needs(program: str) -> pytest.MarkDecorator:
    is_missing = shutil.which(program, path=SEARCH) is None and not os.environ.get("REQUIRE_DEPLOY")
    return pytest.mark.skipif(is_missing, reason=f"{program} is not installed")


def path_of(program: str) -> str:
    found = shutil.which(program, path=SEARCH)
    assert found is not None, f"{program} is not installed"
    return found


@needs("systemd-analyze")
def test_the_unit_is_one_to_systemd(tmp_path: Path) -> None:
    unit = (DEPLOY / "token-by-token.service").read_text()
    command = re.search(r"ExecStart=(\S+) (\S+)", unit)
    assert command is not None
    assert (ROOT / command[2]).exists()
    here = tmp_path / "token-by-token.service"
    here.write_text(unit.replace(command[1], "/bin/true").replace("WorkingDirectory=/opt/token-by-token", ""))
    checked = subprocess.run(
        [path_of("systemd-analyze"), "verify", here], capture_output=True, text=True, timeout=PATIENCE
    )
    assert "token-by-token.service" not in checked.stderr, checked.stderr
    assert checked.returncode == 0, checked.stderr


def test_the_container_takes_the_steps_of_the_readme() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert "make .venv/serve" in text
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    program = json.loads(command[1])[1]
    assert (ROOT / program).exists()
    assert "serve: .venv/serve" in (ROOT / "Makefile").read_text()


def test_the_containers_user_owns_the_folder_in_which_it_makes_its_environment() -> None:
    before, _, rest = (DEPLOY / "Containerfile").read_text().partition("\nWORKDIR ")
    folder = rest.split()[0]
    user = re.search(r"^USER (\w+)$", rest, re.MULTILINE)
    assert user is not None
    made = re.search(r"^RUN install --directory --owner=(\w+) (.+)$", before, re.MULTILINE)
    assert made is not None
    assert made[1] == user[1]
    assert folder in made[2].split()


def test_what_git_ignores_does_not_go_into_the_container() -> None:
    left_out = set((ROOT / ".dockerignore").read_text().split())
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    # A name without a slash means every folder to git, and needs two stars here to mean the same.
    assert left_out >= {".git", *(name if "/" in name else f"**/{name}" for name in ignored)}


@contextmanager
def certificate(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A self-made certificate and its key."""
    made, key = folder / "made.crt", folder / "made.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=models.example"]
    subprocess.run([*command, "-keyout", key, "-out", made], check=True, capture_output=True, timeout=PATIENCE)
    yield made, key


def nginx_command(folder: Path, port: int, backend: int) -> list[str]:
    with certificate(folder) as (made, key):
        server = (DEPLOY / "nginx.conf").read_text()
    server = server.replace("8443", str(port)).replace("127.0.0.1:8000", f"127.0.0.1:{backend}")
    server = server.replace("/etc/ssl/token-by-token.crt", str(made)).replace("/etc/ssl/token-by-token.key", str(key))
    (folder / "server.conf").write_text(server)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root, nginx would otherwise work as a user who may not write long bodies into this folder.
    whole = f"user {getpass.getuser()};\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
    whole += f"http {{\naccess_log off;\n{paths}include {folder}/server.conf;\n}}\n"
    (folder / "nginx.conf").write_text(whole)
    return [path_of("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "error.log")]


def caddy_command(folder: Path, port: int, backend: int) -> list[str]:
    text = (DEPLOY / "Caddyfile").read_text()
    text = text.replace("8443", str(port)).replace("127.0.0.1:8000", f"127.0.0.1:{backend}")
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    (folder / "Caddyfile").write_text(options + text)
    return [path_of("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


PROXIES = {"nginx": nginx_command, "caddy": caddy_command}


@contextmanager
def proxied(name: str, door: str, folder: Path) -> Iterator[tuple[Process, int]]:
    """A door's server and a proxy before it; the server's process, and the proxy's port."""
    arguments = ["-m", "uvicorn", "--factory", "tests.support.serving:scripted_app", "--port", "0"]
    with in_a_process(arguments, {"DOOR": door, "ENGINE_HOSTS": "models.example"}) as process, kept_port() as port:
        wait_until(lambda: status_of(process.target) == "ok")
        environ = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        command = PROXIES[name](folder, port, process.port)
        with (folder / "log").open("wb") as log:
            proxy = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            wait_until(lambda: is_ready(port), f"{name}'s start")
            yield process, port
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(PATIENCE)


def is_ready(port: int) -> bool:
    """Whether a proxy has its certificate, which Caddy makes while it listens already."""
    try:
        with connect(port):
            return True
    except OSError:
        return False


def connect(port: int) -> Connection:
    """A connection to a proxy, over TLS with a certificate of the test's own."""
    connection = Connection(port)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection.socket = context.wrap_socket(connection.socket, server_hostname="models.example")
    return connection


def ask(connection: Connection, prompt: str, **fields: object) -> None:
    body = json.dumps({"prompt": prompt, "stream": True, **fields}).encode()
    connection.send_request("POST", "/generate", body, Host="models.example", Content_Type="application/json")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in PROXIES])
def test_a_stream_comes_token_by_token_through_a_proxy_and_a_leaving_client_is_heard(
    name: str, door: str, tmp_path: Path
) -> None:
    with proxied(name, door, tmp_path) as (process, port), Connection(process.port) as observer:
        with connect(port) as leaver:
            ask(leaver, "drip 4000", max_tokens=4000)
            status, headers = leaver.read_head()
            assert status == 200
            assert headers["content-type"].startswith("text/event-stream")
            began = time.monotonic()
            assert b'"token":"0 "' in leaver.read_chunk()
            assert time.monotonic() - began < 5  # all of them take twenty seconds
            assert observer.request("GET", "/health").json()["running"] == 1
        wait_until(lambda: observer.request("GET", "/health").json()["running"] == 0, "the abort")
        assert observer.request("GET", "/health").json()["generated_tokens"] < 4000
        with connect(port) as connection:
            ask(connection, "hello")
            connection.read_head()
            assert b"".join(connection.chunks()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in PROXIES])
def test_through_a_proxy_a_body_may_be_as_long_as_without_it_and_the_service_refuses_one_with_too_long_a_text(
    name: str, tmp_path: Path
) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    shown = [{"role": "tool", "content": [image]}, {"role": "user", "content": "hello"}]
    body = json.dumps({"messages": shown}).encode()
    with proxied(name, "app", tmp_path) as (_, port):
        for grows, status in ((b"base64,", 200), (b"hello", 413)):
            grown = grows.ljust(MAX_BODY_BYTES - len(body) + len(grows), b"A")
            with connect(port) as connection:
                answer = connection.request(
                    "POST",
                    "/v1/chat/completions",
                    body.replace(grows, grown),
                    Host="models.example",
                    Content_Type="application/json",
                )
            assert answer.status == status, answer.body
            assert answer.headers["content-type"] == "application/json"


def test_gunicorn_keeps_an_idle_connection_as_long_as_the_doors_do() -> None:
    kept = re.search(r"^keepalive = (\d+)", (DEPLOY / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert kept is not None
    assert int(kept[1]) == Config().keep_alive


@pytest.mark.parametrize("file", ["nginx.conf", "Caddyfile"])
def test_a_proxy_gives_up_an_idle_connection_before_the_service_does(file: str) -> None:
    kept = re.search(r"^\s*(?:keepalive_timeout|keepalive) (\d+)s", (DEPLOY / file).read_text(), re.MULTILINE)
    assert kept is not None
    assert int(kept[1]) < Config().keep_alive
