"""A Ray cluster of its own on this machine, for the tests and the tables: started, deployed on, killed, ended.

with cluster(ha_proxy=True) as ray:
    ray.deploy("app", replicas=2)
    ray.kill("replica")

Ray is in an environment of its own (`make .venv-ray`), so this module uses only its commands and /proc.
"""

import os
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.common.launcher import ROOT, Process, free_port, running

BIN = Path(os.environ.get("RAY_ENVIRONMENT", ROOT / ".venv-ray")) / "bin"
DEPLOY_LIMIT = 120.0
"""Seconds that a deployment may take."""
ENGINE = {"ENGINE_MAX_STREAMS": "16", "ENGINE_MAX_WAITING": "64"}
QUIET = {
    "RAY_AUTH_MODE": "disabled",  # the commands here and the cluster are on one machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
HA_PROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "hdr(x-session-id)",
}
HA_PROXY_PORTS = ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT")
KINDS = {
    "ray::ServeReplica": "replica",
    "ray::ProxyActor": "proxy",
    "ray::HAProxyManager": "HAProxy's manager",
    "ray::ServeController": "controller",
    "haproxy": "HAProxy",
    "raylet": "raylet",
    "gcs_server": "GCS",
}
"""Process names, and the kinds that they stand for; all others are "other"."""
BUILD = "deploy.ray_serve:build"
SCRIPTED = "study.scale.engine:scripted"


class DeployFailed(RuntimeError):
    """A deployment failed; the message has Ray's output."""


@dataclass
class Cluster:
    """A running cluster, and the port on which its proxy listens."""

    process: Process
    address: str
    port: int
    settings: dict[str, str]

    def deploy(self, door: str, replicas: int = 1, **arguments: object) -> None:
        """Deploy a door, or replace the deployed one by it; return when all its replicas are ready."""
        given = {"door": door, "replicas": replicas, "cpus": 0.1, "load": SCRIPTED} | arguments
        output = self._run("run", "--non-blocking", BUILD, *[f"{name}={value}" for name, value in given.items()])
        if "is ready" not in output:  # the status is 0 all the same
            raise DeployFailed(f"expected the application to become ready, got:\n{output[-4000:]}")

    def deploy_file(self, file: str) -> None:
        """Begin to deploy a configuration file. Its port is ignored, because the proxy runs already."""
        self._run("run", "--non-blocking", file)

    def start_proxy(self) -> None:
        self._run("start", "--http-host", "127.0.0.1", "--http-port", str(self.port))

    def processes(self) -> dict[str, list[int]]:
        """The ids of the cluster's processes, by kind."""
        found: dict[str, list[int]] = defaultdict(list)
        for pid in members(self.process.popen.pid):
            found[kind_of(pid)].append(pid)
        return found

    def kill(self, kind: str) -> int:
        """`kill -9` of one process of a kind; its id."""
        pid = self.processes()[kind][0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def memory(self) -> int:
        """Bytes that the cluster's processes hold together; pages that they share are counted once (PSS)."""
        return sum(proportional_memory(pid) for pid in members(self.process.popen.pid))

    def end(self) -> None:
        """Kill all processes, HAProxy too, which leaves the process group of those that started it."""
        for pid in members(self.process.popen.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _run(self, *arguments: str) -> str:
        """Run a command of Ray Serve's; what it says.

        Raises:
            DeployFailed: it failed.
        """
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")}
        environ |= self.settings | {"RAY_ADDRESS": self.address}
        done = subprocess.run(
            [BIN / "serve", *arguments],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEPLOY_LIMIT,
            check=False,
        )
        if done.returncode != 0:
            raise DeployFailed(f"`serve {' '.join(arguments)}` failed:\n{done.stdout[-4000:]}")
        return done.stdout


@contextmanager
def cluster(ha_proxy: bool, settings: dict[str, str] | None = None) -> Iterator[Cluster]:
    """Run a cluster of one node until the block ends; then end all its processes."""
    if not (BIN / "ray").exists():
        raise SystemExit(f"error: expected Ray in {BIN}, found none; make it with `make .venv-ray`")
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        environ = QUIET | ENGINE | {"RAY_TMPDIR": folder, "PYTHONUNBUFFERED": "1", **(settings or {})}
        if ha_proxy:
            environ |= HA_PROXY
            environ |= {name: str(free_port()) for name in HA_PROXY_PORTS}
        port = free_port()
        arguments = [str(BIN / "ray"), "start", "--head", "--block", "--include-dashboard=false", f"--port={port}"]
        arguments += ["--num-cpus=8", "--num-gpus=0", "--object-store-memory=100000000"]
        arguments += [f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        with running(arguments, environ, end_limit=0, program=str(BIN / "python")) as process:
            address = process.find(r"ray start --address='([^']+)'")
            started = Cluster(process, address, free_port(), environ)
            try:
                started.start_proxy()
                yield started
            finally:
                started.end()


def members(session: int) -> list[int]:
    """The processes that were started from one, and have not left its session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that has ended meanwhile
            fields = stat.read_text().rpartition(") ")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return sorted(found)


def kind_of(pid: int) -> str:
    with suppress(OSError):
        name = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode().strip()
        name = name if name.startswith("ray::") else Path(name).name
        return next((kind for start, kind in KINDS.items() if name.startswith(start)), "other")
    return "other"


def proportional_memory(pid: int) -> int:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def processor_seconds(pid: int) -> float:
    """The processor time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
