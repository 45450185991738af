"""Asks for /health of a server, and of an idle one, repeatedly, from a process of its own.

    python -m study.soak.prober PORT        # until its input ends; then it prints what it has measured, as JSON

The clients of a soak keep their own process busy, so times taken there would include their work. The idle server's
times show what the machine itself adds.
"""

import json
import multiprocessing
import socket
import sys
import threading
import time
from contextlib import suppress

INTERVAL = 0.05
PATIENCE = 10.0
QUESTION = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def seconds_of_answer(port: int) -> float:
    """How long it takes to connect, ask, and read the answer to its end; `PATIENCE` if there is none."""
    began = time.perf_counter()
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE) as asking:
        asking.sendall(QUESTION)
        answer = b""
        while piece := asking.recv(4096):
            answer += piece
        if answer.startswith(b"HTTP/1.1 "):
            return time.perf_counter() - began
    return PATIENCE


def answer_all(listener: socket.socket) -> None:
    """The idle server."""
    while True:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(ANSWER)


def main() -> None:
    port = int(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    idle = multiprocessing.Process(target=answer_all, args=(listener,), daemon=True)
    idle.start()
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    took: dict[str, list[float]] = {"server": [], "idle": []}
    while not ended.wait(INTERVAL):
        took["server"].append(seconds_of_answer(port))
        took["idle"].append(seconds_of_answer(listener.getsockname()[1]))
    idle.terminate()
    print(json.dumps(took))


if __name__ == "__main__":
    main()
