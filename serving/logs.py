"""Where the service's log lines go: to stderr, unless the program around it has set up logging of its own."""

import logging


def set_up_logging() -> None:
    """Show the service's own lines from INFO on, and only warnings of everybody else's."""
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(levelname)s:     %(message)s", level=logging.WARNING)
        logging.getLogger("engine").setLevel(logging.INFO)
