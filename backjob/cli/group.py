"""The command's frame: the option that names the application, the options of several commands, and its exit codes.

Every error becomes one line on standard error. Knows no single command.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import click

from backjob import AddressError, BackJob, BackJobError, ConfigError, __version__
from backjob.runtime.interrupts import interruptible, report

from .locate import FORMS, find_application, is_app
from .screen import clean_line

OK, NOT_OK, ERROR, NO_READER = 0, 1, 2, 128 + signal.SIGPIPE
"""Exit codes."""
_PASSWORD = re.compile(r"(?<=://)[^\s'\"]*@|[^\s'\"/]+@")
"""With the name before it, and also where an @ in it makes the rest look like a host."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """The group of all commands. It ends the process, with an exit code, and with one line where there is an error."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command. Always raises SystemExit."""
        sys.exit(self._run(*args, **{**extra, "standalone_mode": False}))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was called, and end in silence when nobody reads what it writes."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # What Python still wants to write at its end goes nowhere, as the documentation of SIGPIPE has it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NO_READER
        except KeyboardInterrupt:  # before click sees it, which writes an empty line
            return report()

    def _run(self, *args: Any, **extra: Any) -> int:
        try:
            return super().main(*args, **extra) or OK
        except (click.Abort, KeyboardInterrupt):
            return report()
        except click.UsageError as error:
            usage = f"Try '{error.ctx.command_path} --help'." if error.ctx is not None else ""
            return _tell_error(f"{error.format_message().rstrip('.')}. {usage}")
        except click.ClickException as error:
            return _tell_error(error.format_message())
        except AddressError as error:
            return _tell_error(f"{error} Here that is --connect URL.")
        except (BackJobError, OSError) as error:
            return _tell_error(str(error))


def run_group() -> NoReturn:
    """Run the command that this process was called with, and end with its exit code."""
    if sys.stdout is None:  # it was closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a terminal gets its cursor back
    log = logging.getLogger("backjob")
    log.addHandler(logging.NullHandler())
    log.propagate = False  # a command's errors are one line
    with interruptible():
        backjob.main(prog_name="backjob")


def _tell_error(text: str) -> int:
    # What was typed in the wrong place, such as a database URL, is told back without the password in it.
    print(f"backjob: {_PASSWORD.sub('…@', clean_line(text))}", file=sys.stderr)
    return ERROR


def give_json(command: Command) -> Command:
    return click.option("--json", "is_json", is_flag=True, help="Write JSON.")(command)


def give_connect(command: Command) -> Command:
    return click.option(
        "--connect", metavar="URL", help="Where the app answers, such as http://127.0.0.1:8000, if WHERE does not say."
    )(command)


ID = click.IntRange(1, 2**63 - 1)
give_ids = click.argument("ids", metavar="ID...", type=ID, nargs=-1, required=True)
give_id = click.argument("job_id", metavar="ID", type=ID)


@contextlib.contextmanager
def open_application(connect: str | None = None, *, needs_files: bool = True) -> Iterator[BackJob]:
    """The application that -A names, with this ``connect`` if it is given one.

    Unless ``needs_files`` is false its files and its table have to be there: a name with a slip in it would make some
    elsewhere.
    """
    with contextlib.closing(find_application(_read_where(), connect, makes_table=not needs_files)) as application:
        if needs_files:
            _check_files(application.missing_files)
        yield application


def names_app() -> bool:
    """Does -A name an app, of which this may be the first use, and no mere database?"""
    return is_app(_read_where())


def _read_where() -> str:
    context = click.get_current_context()
    where: str | None = context.find_root().params["where"]
    if not where:
        raise click.UsageError(f"-A WHERE (or $BACKJOB_APP) is missing: {FORMS}.", context)
    return where


def _check_files(missing: Sequence[str]) -> None:
    for file in missing:
        is_key = file.endswith(".key")
        what, otherwise = ("key file", ", or set $BACKJOB_KEY") if is_key else ("SQLite file", "")
        raise ConfigError(
            f"there is no {what} {file}: is WHERE right? The app makes it for its first job, and so does "
            f"'backjob create-table'{otherwise}"
        )


@click.group(
    cls=Commands,
    no_args_is_help=False,  # what is missing is told in one line
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-A", "--app", "where", metavar="WHERE", envvar="BACKJOB_APP", show_envvar=True, help=f"Whose jobs: {FORMS}."
)
@click.version_option(__version__, prog_name="backjob", message="%(prog)s %(version)s")
def backjob(where: str | None) -> None:
    """Look at the background jobs of an app, start them and end them.

    The key comes from $BACKJOB_KEY, from the key file beside the SQLite file, or from the app.
    """
