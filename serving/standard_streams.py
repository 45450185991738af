"""The standard streams of a program that was started without them."""

import os
import sys


def open_closed_streams() -> None:
    """Put the null device where the program was started with stdin, stdout or stderr closed, as some supervisors do.

    Otherwise the next file or connection that is opened gets such a stream's number, and with it what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)  # for the processes that are started from here
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
