"""Sets up logging to stderr, unless the program around the service has set up its own.

With `ENGINE_LOG_FORMAT=json` each line is an object with time, level, logger, message and the line's own fields, also
for uvicorn's lines.
"""

import json
import logging
import time

from serving.log_stream import stop_waiting_for_readers


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
    """Show the service's own lines from INFO on, and only warnings of all others.

    Call it again when uvicorn has made handlers of its own.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(levelname)s:     %(message)s", level=logging.WARNING)
        logging.getLogger("engine").setLevel(logging.INFO)
    for name in ("", "uvicorn", "uvicorn.access"):
        logger = logging.getLogger(name)
        stop_waiting_for_readers(logger)
        if form == "json":
            for handler in logger.handlers:
                handler.setFormatter(JsonFormatter())
