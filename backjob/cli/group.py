"""The group of the commands: the option that names the application, shared options, errors and exit codes.

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

from backjob import AddressError, BackJob, BackJobError, ConfigError, Status, __version__
from backjob.runtime.interrupts import interruptible, report

from .locate import FORMS, find_application, is_app
from .screen import clean_line

OK, NOT_OK, ERROR, NO_READER = 0, 1, 2, 128 + signal.SIGPIPE
"""Exit codes."""
_PASSWORD = re.compile(r"(?<=://)[^\s'\"]*@|[^\s'\"/]+@")
"""A password in a URL and the user name before it, even if the password contains an @."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """The group of all commands. It ends the process with an exit code, and reports an error in one line."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command. Always raises SystemExit."""
        sys.exit(self._run(*args, **{**extra, "standalone_mode": False}))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was called. End without a message if the reader of its output has gone."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # Python flushes standard output once more at exit, which must not fail (see SIGPIPE in its signal module).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NO_READER
        except KeyboardInterrupt:  # click would write an empty line
            return report()

    def _run(self, *args: Any, **extra: Any) -> int:
        try:
            return super().main(*args, **extra) or OK
        except (click.Abort, KeyboardInterrupt):
            return report()
        except click.UsageError as error:
            usage = f"Try '{error.ctx.command_path} --help'." if error.ctx is not None else ""
            return _report_error(f"{error.format_message().rstrip('.')}. {usage}")
        except click.ClickException as error:
            return _report_error(error.format_message())
        except AddressError as error:
            return _report_error(f"{error} With this command, give --connect URL.")
        except (BackJobError, OSError) as error:
            return _report_error(str(error))


def run_group() -> NoReturn:
    """Run the command that this process was called with, and end with its exit code."""
    if sys.stdout is None:  # it was closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # restores the terminal's cursor
    log = logging.getLogger("backjob")
    log.addHandler(logging.NullHandler())
    log.propagate = False  # a command's errors are one line
    with interruptible():
        backjob.main(prog_name="backjob")


def _report_error(text: str) -> int:
    # The message may quote an argument, such as a database URL. The password in it is left out.
    print(f"backjob: {_PASSWORD.sub('…@', clean_line(text))}", file=sys.stderr)
    return ERROR


def json_option(command: Command) -> Command:
    return click.option("--json", "is_json", is_flag=True, help="Write JSON.")(command)


def connect_option(command: Command) -> Command:
    return click.option(
        "--connect", metavar="URL", help="Address of the app, such as http://127.0.0.1:8000, if WHERE does not have it."
    )(command)


ID = click.IntRange(1, 2**63 - 1)
ids_argument = click.argument("ids", metavar="ID...", type=ID, nargs=-1, required=True)
id_argument = click.argument("job_id", metavar="ID", type=ID)


_STATUSES = {status.word: status for status in Status}
_MEMBERS = {status.name.lower(): status for status in Status}
STATUS_WORDS = ", ".join(_STATUSES)


class StatusName(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2 only
    """The word of a status, or the name of its member of Status, such as ``started``."""

    def __init__(self) -> None:
        super().__init__(list(_STATUSES), case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Status:
        member = _MEMBERS.get(str(value).lower())
        return member if member is not None else _STATUSES[super().convert(value, param, ctx)]


@contextlib.contextmanager
def open_application(connect: str | None = None, *, needs_files: bool = True) -> Iterator[BackJob]:
    """Yield the application that -A names, with this ``connect`` if one is given.

    With ``needs_files`` its files and its table must exist. Otherwise a typo in the name would make new ones.
    """
    with contextlib.closing(find_application(_read_where(), connect, makes_table=not needs_files)) as application:
        if needs_files:
            _check_files(application.missing_files)
        yield application


def has_app() -> bool:
    """Return whether -A names an app, which may be unused yet, and not only a database."""
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
            f"there is no {what} {file}. Correct WHERE. If it is right, start a job in the app, which makes the file, "
            f"or run 'backjob create-table'{otherwise}"
        )


@click.group(
    cls=Commands,
    no_args_is_help=False,  # the error names the missing argument in one line
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-A", "--app", "where", metavar="WHERE", envvar="BACKJOB_APP", show_envvar=True, help=f"The app: {FORMS}."
)
@click.version_option(__version__, prog_name="backjob", message="%(prog)s %(version)s")
def backjob(where: str | None) -> None:
    """List, start, watch and cancel the background jobs of an app.

    The key comes from the app, from $BACKJOB_KEY, or from the key file beside the SQLite file.
    """
