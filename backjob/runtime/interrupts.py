"""Ctrl-C in the command ``backjob``: one line on standard error and exit code 130, at any time, without a traceback.

The first module that the package imports, because most of the command's start-up time goes into the other imports. It
does nothing in any other process. Knows nothing of backjob.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

INTERRUPTED = 128 + signal.SIGINT
"""The exit code."""
_PATIENCE = 1.0
"""Seconds for closing open connections and files. Exceptions don't end a wait in a driver's C code."""


class _State:
    is_interruptible = False
    is_raised = False
    is_reported = False


def end_at_once() -> None:
    """Let Ctrl-C end the process at once, because nothing is open or everything is being closed."""
    _handle(_end)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let the first Ctrl-C within this block raise KeyboardInterrupt, so that everything opened in it is closed."""
    _State.is_interruptible = True
    _handle(_raise)
    _limit_wait()
    try:
        yield
    finally:
        _State.is_interruptible = False
        end_at_once()


def resume() -> None:
    """Restore the handler after code of the app, such as its import.

    A handler that the app has set is replaced. Raises KeyboardInterrupt if the app has swallowed one.
    """
    if _State.is_raised:
        raise KeyboardInterrupt
    if _State.is_interruptible:
        _handle(_raise)


def report() -> int:
    """Write the line, once. Return the exit code."""
    if not _State.is_reported:
        _State.is_reported = True
        with contextlib.suppress(OSError, AttributeError, ValueError):  # standard error is closed
            start = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # the terminal shows ^C, and maybe no cursor
            # Not by print(): a signal may come while the stream's lock is held.
            os.write(sys.stderr.fileno(), f"{start}backjob: interrupted\n".encode())
    return INTERRUPTED


def _raise(*_: object) -> None:
    _State.is_raised = True
    end_at_once()
    raise KeyboardInterrupt


def _end(*_: object) -> None:
    os._exit(report())


def _limit_wait() -> None:
    """Start a thread that ends the process if it still runs some time after Ctrl-C."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    except ValueError:  # not in the main thread
        os.close(reader)
        os.close(writer)
        return
    threading.Thread(target=_wait_for_interrupt, args=(reader,), name="backjob-interrupt", daemon=True).start()


def _wait_for_interrupt(reader: int) -> None:
    while signal.SIGINT not in os.read(reader, 64):
        pass
    time.sleep(_PATIENCE)
    _end()


def _handle(handler: Callable[..., object]) -> None:
    """Set the handler, unless the parent process has the signal ignored, as with nohup or "&" in a script."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, handler)


def _is_command() -> bool:
    """Is this process ``backjob``, or ``python -m backjob``?"""
    arguments: list[str] = getattr(sys, "argv", None) or [""]
    name = arguments[0]
    if name == "-m":  # while Python looks for the module that is to run
        return ("-m", "backjob") in itertools.pairwise(sys.orig_argv)
    return os.path.basename(name) == "backjob"


if _is_command():
    end_at_once()
