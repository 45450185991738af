"""Where the service's log lines go: to stderr, unless the program around it has set up logging of its own.

`ENGINE_LOG_FORMAT=json` writes an object a line, for programs that read logs: time, level, logger, message, and what a
line says in fields. uvicorn's lines then look the same.
"""

import json
import logging
import time


class JsonFormatter(logging.Formatter):
    """One line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False, default=str)


def set_up_logging(form: str = "text") -> None:
    """Show the service's own lines from INFO on, and only warnings of everybody else's."""
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(levelname)s:     %(message)s", level=logging.WARNING)
        logging.getLogger("engine").setLevel(logging.INFO)
    if form == "json":
        for name in ("", "uvicorn", "uvicorn.access"):
            for handler in logging.getLogger(name).handlers:
                handler.setFormatter(JsonFormatter())
