"""Importing this has Ctrl-C end the program at once, without a word, until a server listens to it.

Python would raise KeyboardInterrupt, and in the second that a server's imports take, that is a traceback of theirs. So
a program imports this before all else:

    if __name__ == "__main__":
        import serving.quiet_start

uvicorn listens to the signal while it serves. Once it has ended in good order it raises the signal again, so that the
program has ended by it for its caller too: a shell stops its script at Ctrl-C only then.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and is not ignored, as in the background of a shell
    signal.signal(signal.SIGINT, signal.SIG_DFL)
