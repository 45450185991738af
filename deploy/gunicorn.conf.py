"""Settings of gunicorn for workers over one engine, which gunicorn's main process starts and ends.

pip install gunicorn uvicorn-worker
gunicorn --config deploy/gunicorn.conf.py app:app
"""

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import Config
from serving.logs import set_up_logging
from serving.workers import engine_running

bind = "127.0.0.1:8000"
workers = 4
worker_class = "uvicorn_worker.UvicornWorker"
graceful_timeout = 30
keepalive = 75  # as the doors: longer than proxies and clients keep a connection idle
_until_the_end = ExitStack()


def on_starting(server: Any) -> None:
    config = Config.from_environment_or_exit()
    set_up_logging(config.log_format)
    _until_the_end.enter_context(engine_running(config, lambda status: os.kill(os.getpid(), signal.SIGTERM)))


def on_exit(server: Any) -> None:
    _until_the_end.close()
