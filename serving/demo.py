"""`--demo`: a few prompts in the terminal, each answered as a stream and then as a whole, to see the difference.

The door really serves, on a free port of this machine, and this program is its client: what you see is what a client
sees, at the moment it arrives.
"""

import http.client
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import uvicorn

PROMPTS = ("What is 2 + 2?", "What is more_body?", "Tell me a story about a fox.")
IS_COLOURED = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ
DIM, BOLD, PLAIN = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if IS_COLOURED else ("", "", "")


def run_demo(server: uvicorn.Server) -> None:
    """Serve in a thread, ask the prompts, and end."""
    server.config.port = 0
    logging.getLogger("engine.access").setLevel(logging.WARNING)  # its lines would fall among the answers
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    try:
        port = _wait_until_ready(server, thread)
        for prompt in PROMPTS:
            print(f"{BOLD}{prompt}{PLAIN}")
            _show_streamed(port, prompt)
            _show_whole(port, prompt)
    finally:
        server.should_exit = True
        thread.join()


def _show_streamed(port: int, prompt: str) -> None:
    began = time.perf_counter()
    first_token_after = 0.0
    tokens = 0
    print(f"  {DIM}streamed  {PLAIN}", end="", flush=True)
    for event in _stream(port, {"prompt": prompt, "seed": 1, "stream": True}):
        if "error" in event:
            raise SystemExit(f"error: {event['error']['message']}")
        if "token" in event:
            first_token_after = first_token_after or time.perf_counter() - began
            tokens += 1
            print(event["token"].replace("\n", "\n            "), end="", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"\n            {DIM}first token after {1e3 * first_token_after:.0f} ms; "
        f"{tokens} tokens in {1e3 * seconds:.0f} ms, {tokens / seconds:.0f} per second{PLAIN}"
    )


def _show_whole(port: int, prompt: str) -> None:
    began = time.perf_counter()
    print(f"  {DIM}whole     {PLAIN}", end="", flush=True)
    with _post(port, {"prompt": prompt, "seed": 1}) as response:
        answer = json.load(response)
    seconds = time.perf_counter() - began
    text = answer["text"].strip().replace("\n", " ")
    print(f"{text if len(text) < 60 else text[:59] + '…'}")
    print(f"            {DIM}nothing for {1e3 * seconds:.0f} ms, then all of it{PLAIN}\n")


def _wait_until_ready(server: uvicorn.Server, thread: threading.Thread) -> int:
    """The port, once the engine has loaded."""
    while thread.is_alive():
        if server.started:
            port: int = server.servers[0].sockets[0].getsockname()[1]
            with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
                connection.request("GET", "/health")
                status = json.load(connection.getresponse())["status"]
            if status == "ok":
                return port
            if status != "loading":
                raise SystemExit(f"error: {status}")
        time.sleep(0.05)
    raise SystemExit("error: the server did not start; its log says why")


def _stream(port: int, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a stream, each as soon as it has arrived."""
    with _post(port, body) as response:
        for line in response:
            if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                yield json.loads(line[len(b"data: ") :])


@contextmanager
def _post(port: int, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/generate", json.dumps(body), {"Content-Type": "application/json"})
        yield connection.getresponse()
