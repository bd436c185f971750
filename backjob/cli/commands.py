"""The commands themselves: what each is given, what it asks of the application, and what it shows.

Decides nothing about a job and draws nothing. Every error becomes one line on standard error and an exit code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import click

from backjob import BackJob, BackJobError, ConfigError, Status, __version__

from .demo import run_demo
from .screen import clean_line, name_status, open_screen
from .watching import watch_jobs
from .where import FORMS, find_application

OK, NOT_OK, ERROR, INTERRUPTED, NO_READER = 0, 1, 2, 128 + signal.SIGINT, 128 + signal.SIGPIPE
"""Exit codes."""
_KEY_BYTES = 48

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """The group of all commands, which ends in silence when nobody reads what it writes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # What Python still wants to write at its end goes nowhere, as the documentation of SIGPIPE has it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NO_READER


def run() -> int:
    """Run the command that the process was called with. Its exit code."""
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a terminal gets its cursor back
    log = logging.getLogger("backjob")
    log.addHandler(logging.NullHandler())
    log.propagate = False  # a command's errors are one line
    try:
        return backjob.main(prog_name="backjob", standalone_mode=False) or OK
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.UsageError as error:
        usage = f"Try '{error.ctx.command_path} --help'." if error.ctx is not None else ""
        return _tell_error(f"{error.format_message()} {usage}")
    except click.ClickException as error:
        return _tell_error(error.format_message())
    except (BackJobError, OSError) as error:
        return _tell_error(str(error))


def _tell_error(text: str) -> int:
    print(f"backjob: {clean_line(text)}", file=sys.stderr)
    return ERROR


def _give_json(command: Command) -> Command:
    return click.option("--json", "is_json", is_flag=True, help="Write JSON.")(command)


def _give_connect(command: Command) -> Command:
    return click.option(
        "--connect", metavar="URL", help="Where the app answers, such as http://127.0.0.1:8000, if WHERE does not say."
    )(command)


_give_ids = click.argument("ids", metavar="ID...", type=click.IntRange(min=1), nargs=-1, required=True)
_give_id = click.argument("job_id", metavar="ID", type=click.IntRange(min=1))


@contextlib.contextmanager
def _application(connect: str | None = None, *, may_make: bool = False) -> Iterator[BackJob]:
    """The application that -A names. Its files have to be there, for a name that is wrong would make some elsewhere."""
    where = click.get_current_context().find_root().params["where"]
    if not where:
        raise click.UsageError(f"-A WHERE (or $BACKJOB_APP) is missing: {FORMS}.", click.get_current_context())
    with contextlib.closing(find_application(where, connect)) as application:
        missing = application.missing_files
        if missing and not may_make:
            what = "key file" if missing[0].suffix == ".key" else "SQLite file"
            otherwise = ", or set $BACKJOB_KEY" if what == "key file" else ""
            raise ConfigError(
                f"there is no {what} {missing[0]}: is WHERE right? The app makes it for its first job, and so does "
                f"'backjob create-table'{otherwise}"
            )
        yield application


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-A", "--app", "where", metavar="WHERE", envvar="BACKJOB_APP", show_envvar=True, help=f"Whose jobs: {FORMS}."
)
@click.version_option(__version__, prog_name="backjob", message="%(prog)s %(version)s")
def backjob(where: str | None) -> None:
    """Look at the background jobs of an app, start them and end them.

    The key comes from $BACKJOB_KEY, from the key file beside the SQLite file, or from the app.
    """


@backjob.command("list")
@click.option(
    "--status",
    "names",
    type=click.Choice([status.name.lower() for status in Status], case_sensitive=False),
    multiple=True,
    help="Jobs in this status only; may be given several times.",
)
@click.option("--scope", help="Jobs of this scope only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="So many at most.")
@click.option("--before", metavar="ID", type=click.IntRange(min=1), help="Jobs that are older than this one.")
@_give_json
def list_jobs(names: Sequence[str], scope: str | None, limit: int, before: int | None, is_json: bool) -> None:
    """List jobs, the newest first."""
    with _application() as application:
        statuses = [Status[name.upper()] for name in names] or None
        jobs = application.jobs.find(statuses, scope, limit, before)
    open_screen(is_json).write_jobs(jobs)


@backjob.command()
@_give_id
@_give_json
def show(job_id: int, is_json: bool) -> None:
    """Show all that is known of a job, and its text."""
    with _application() as application:
        job = application.jobs.status(job_id)
    open_screen(is_json).write_job(job)


@backjob.command()
@_give_ids
@_give_json
def watch(ids: Sequence[int], is_json: bool) -> int:
    """Watch jobs until they have ended. Ctrl-C leaves them alone.

    The exit code is 0 if all of them completed, else 1.
    """
    with _application() as application:
        return OK if watch_jobs(application.jobs, ids, open_screen(is_json)) else NOT_OK


def _read_pairs(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    if not all(name and equals for name, equals, _ in pairs):
        raise click.BadParameter("must be NAME=VALUE", ctx, option)  # without the value, which may be a secret
    return [(name, value) for name, _, value in pairs]


_pairs = partial(click.option, metavar="NAME=VALUE", multiple=True, callback=_read_pairs)


@backjob.command()
@click.argument("target")
@click.option("--method", help="The method of its request. Default: POST with --data, else GET.")
@_pairs("--param", "params", help="Add this to the query; may be given several times.")
@_pairs("--data", help="Add this to the form that is sent; may be given several times.")
@click.option("--scope", default="", help="Text that limits where the job applies.")
@click.option("--delay", metavar="SECONDS", type=float, default=0, help="Run it that much later.")
@click.option("--priority", type=int, default=0, help="Of the jobs that wait, one with more goes first.")
@click.option("--retries", type=int, default=0, help="Run it again so often after a failure.")
@click.option("--unique", is_flag=True, help="If an equal job has not ended, give that one's ID.")
@click.option("--error-timeout", metavar="SECONDS", type=float, help="Let it fail when it is silent for so long.")
@click.option("--redirect-ok", is_flag=True, default=None, help="An answer that redirects completes it.")
@click.option("--watch", "watches", is_flag=True, help="Then watch it, as 'backjob watch' does.")
@_give_connect
@_give_json
def start(
    target: str,
    params: list[tuple[str, str]],
    data: list[tuple[str, str]],
    method: str | None,
    watches: bool,
    connect: str | None,
    is_json: bool,
    **options: Any,
) -> int:
    """Start a job: run TARGET, a path of the app, in the background. Prints its ID.

    The job is anonymous: no cookie and no credential goes with it.
    """
    screen = open_screen(is_json)
    with _application(connect) as application:
        _check_home(application)
        method = method or ("POST" if data else "GET")
        try:
            job_id = application.jobs.start(target, params, method=method, data=data or None, as_user=False, **options)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error), click.get_current_context()) from error
        screen.write(str(job_id), {"id": job_id})
        if not watches:
            return OK
        application.close()  # launching is the servers' again: this process only looks
        return OK if watch_jobs(application.jobs, [job_id], screen) else NOT_OK


def _check_home(application: BackJob) -> None:
    """A job that no server could ever take up is not to be recorded. One that is down or busy just now will do."""
    if application.config.launcher is not None:
        return
    check = application.check()
    if check.problem is not None and any(trial.is_final for trial in check.tried):
        raise BackJobError(check.problem.text)
    for warning in check.warnings:
        if warning.name == "other-store":
            print(f"backjob: {clean_line(str(warning))}", file=sys.stderr)


@backjob.command()
@_give_ids
@_give_json
def cancel(ids: Sequence[int], is_json: bool) -> None:
    """End jobs: one that waits at once, a running one at its next sign."""
    with _application() as application:
        for job_id in ids:
            application.jobs.status(job_id)  # raises for one that is not there, before any is ended
        was_live = {job_id: application.jobs.cancel(job_id) for job_id in ids}
        jobs = [application.jobs.status(job_id) for job_id in was_live]
    screen = open_screen(is_json)
    if is_json:
        screen.write_json([{**job.as_dict(), "was_live": was_live[job.id]} for job in jobs])
        return
    for job in jobs:
        screen.write_line(f"job {job.id}  {'' if was_live[job.id] else 'had ended: '}{name_status(job)}")


@backjob.command()
@_give_id
@_give_connect
@_give_json
def retry(job_id: int, connect: str | None, is_json: bool) -> None:
    """Start an anonymous job that failed or was cancelled once more. Prints the ID of the new one."""
    with _application(connect) as application:
        _check_home(application)
        new_id = application.jobs.retry(job_id)
    open_screen(is_json).write(str(new_id), {"id": new_id})


@backjob.command()
@_give_json
def sweep(is_json: bool) -> None:
    """Settle the jobs that were lost. Takes a little longer than the lease."""
    with _application() as application:
        if sys.stderr.isatty():
            print(f"This takes a little longer than the lease of {application.config.lease:g} s.", file=sys.stderr)
        count = application.sweep()
    open_screen(is_json).write(f"Settled {_count_jobs(count)}.", {"settled": count})


@backjob.command()
@_give_json
def prune(is_json: bool) -> None:
    """Delete the jobs that are older than the app keeps them."""
    with _application() as application:
        count = application.prune()
    open_screen(is_json).write(f"Deleted {_count_jobs(count)}.", {"deleted": count})


def _count_jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


@backjob.command()
@_give_connect
@_give_json
def check(connect: str | None, is_json: bool) -> int:
    """Will jobs work here? Makes one round trip to the app.

    The exit code is 0 if they will, else 1, with the cause.
    """
    with _application(connect) as application:
        found = application.check()
    open_screen(is_json).write("\n".join(map(clean_line, str(found).splitlines())), found.as_dict())
    return OK if found.is_ok else NOT_OK


@backjob.command("create-table")
def create_table() -> None:
    """Make the job table, where it is not there."""
    with _application(may_make=True) as application:
        application.create_table()
        application.jobs.exists(1)  # it can be read, and where a key file is to be there it is now
        click.echo(f"The table {application.config.table_name} is there.")


@backjob.command()
def key() -> None:
    """Print a new random key, for key= or $BACKJOB_KEY."""
    click.echo(secrets.token_urlsafe(_KEY_BYTES))


@backjob.command()
@click.option(
    "--pause", metavar="SECONDS", type=click.FloatRange(0, 60), default=0.6, show_default=True, help="Length of a step."
)
@click.option("--break", "is_to_break", is_flag=True, help="Let the job fail at its last step.")
@_give_json
def demo(pause: float, is_to_break: bool, is_json: bool) -> int:
    """Serve a small app, start a job in it and watch that. Needs nothing, and leaves nothing behind.

    The exit code is 0 if the job completed, else 1.
    """
    return OK if run_demo(open_screen(is_json), pause, is_to_break) else NOT_OK
