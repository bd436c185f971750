"""The commands themselves: what each is given, what it asks of the application, and what it shows.

Decides nothing about a job and draws nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import click

from backjob import BackJob, BackJobError, Check, Status

from .demo import run_demo
from .group import (
    ID,
    NOT_OK,
    OK,
    backjob,
    give_connect,
    give_id,
    give_ids,
    give_json,
    names_app,
    open_application,
    run_group,
)
from .pairs import headers_option, pairs_option
from .screen import clean, clean_line, name_status, open_screen
from .watch import watch_jobs

_KEY_BYTES = 48
_STATUSES = ", ".join(status.name.lower() for status in Status)
_REASONS_TO_WAIT = ("not-reached", "other-store")
"""Names of findings on a job's way to its server."""


def run() -> NoReturn:
    """Run the command that this process was called with."""
    run_group()


@backjob.command("list")
@click.option(
    "--status",
    "names",
    type=click.Choice(_STATUSES.split(", "), case_sensitive=False),
    metavar="STATUS",
    multiple=True,
    help=f"Only those that are {_STATUSES}; may be given several times.",
)
@click.option("--scope", help="Jobs of this scope only.")
@click.option(
    "--limit", metavar="NUMBER", type=click.IntRange(1, 1000), default=20, show_default=True, help="So many at most."
)
@click.option("--before", metavar="ID", type=ID, help="Jobs that are older than this one.")
@give_json
def list_jobs(names: Sequence[str], scope: str | None, limit: int, before: int | None, is_json: bool) -> None:
    """List jobs, the newest first."""
    with open_application() as application:
        statuses = [Status[name.upper()] for name in names] or None
        jobs = application.jobs.find(statuses, scope, limit, before)
        foreign = application.jobs.find_foreign(job.id for job in jobs)
    open_screen(is_json).write_jobs(jobs)
    # Jobs that ended before the key was changed need no warning.
    if len(foreign) == len(jobs) or any(job.id in foreign and not job.status.is_final for job in jobs):
        _tell_foreign(foreign)


@backjob.command()
@give_id
@give_json
def show(job_id: int, is_json: bool) -> None:
    """Show all that is known of a job, and its text."""
    with open_application() as application:
        job = application.jobs.status(job_id)
        foreign = application.jobs.find_foreign([job_id])
    open_screen(is_json).write_job(job)
    _tell_foreign(foreign)


@backjob.command()
@give_ids
@give_json
def watch(ids: Sequence[int], is_json: bool) -> int:
    """Watch jobs until they have ended. Ctrl-C leaves them alone.

    The exit code is 0 if all of them completed, else 1.
    """
    with open_application() as application:
        _tell_foreign(application.jobs.find_foreign(ids))
        return OK if watch_jobs(application.jobs, ids, open_screen(is_json)) else NOT_OK


@backjob.command()
@click.argument("target")
@click.option("--method", help="The method of its request. Default: POST with --data, else GET.")
@pairs_option("--param", "params", help="Add this to the query; may be given several times.")
@pairs_option("--data", help="Add this to the form that is sent; may be given several times.")
@headers_option(
    "-H", "--header", "headers", help="Add this header, such as 'If-Match: \"5\"'; may be given several times."
)
@click.option("--scope", default="", help="Text that limits where the job applies.")
@click.option("--delay", metavar="SECONDS", type=float, default=0, help="Run it that much later.")
@click.option("--priority", type=int, default=0, help="Of the jobs that wait, one with more goes first.")
@click.option("--retries", type=int, default=0, help="Run it again so often after a failure.")
@click.option("--unique", is_flag=True, help="If an equal job has not ended, give that one's ID.")
@click.option("--error-timeout", metavar="SECONDS", type=float, help="Let it fail when it is silent for so long.")
@click.option("--redirect-ok", is_flag=True, default=None, help="An answer that redirects completes it.")
@click.option("--watch", "watches", is_flag=True, help="Then watch it, as 'backjob watch' does.")
@give_connect
@give_json
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
    """Start a job and print its ID.

    TARGET is what the app is asked for in the background: a path, with or without a query. The job is anonymous: no
    cookie and no credential goes with it.

    Arguments are visible in the list of processes. To keep a secret out of it, give --data, --param or --header as
    @FILE, a file with one NAME=VALUE (or NAME: VALUE) a line, or as @- for such lines on standard input.
    """
    screen = open_screen(is_json)
    with open_application(connect, needs_files=not names_app()) as application:
        warnings = _check_home(application)
        method = method or ("POST" if data else "GET")
        try:
            job_id = application.jobs.start(target, params, method=method, data=data or None, as_user=False, **options)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error), click.get_current_context()) from error
        screen.write(str(job_id), {"id": job_id})
        _warn(warnings)
        if not watches:
            return OK
        application.close()  # launching is the servers' again: this process only looks
        return OK if watch_jobs(application.jobs, [job_id], screen) else NOT_OK


def _check_home(application: BackJob) -> list[str]:
    """Return warnings: why a job that is started now may have to wait, and why it may fail.

    A server that is down or busy takes the job later. Raises BackJobError if no server ever could: then nothing is to
    be recorded.
    """
    if application.config.launcher is not None:
        return []
    check = _check(application)
    if not check.is_ok and any(trial.is_final for trial in check.tried):
        raise BackJobError(str(check.problem))
    waits = [each for each in (*check.problems, *check.warnings) if each.name in _REASONS_TO_WAIT]
    fails = [each for each in check.problems if each.name == "site-url"]
    return [*(f"may have to wait: {each}" for each in waits), *(f"may fail: {each}" for each in fails)]


def _check(application: BackJob) -> Check:
    """Return what a check finds, except for "other-app": the command is never the app that answers."""
    with contextlib.redirect_stdout(sys.stderr):  # what the app prints: it is called too
        found = application.check()
    return replace(found, warnings=tuple(each for each in found.warnings if each.name != "other-app"))


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        print(f"backjob: the job {clean_line(text)}", file=sys.stderr)


@backjob.command()
@give_ids
@give_json
def cancel(ids: Sequence[int], is_json: bool) -> None:
    """End jobs.

    One that waits ends at once, a running one at its next sign: its next update() or output.
    """
    with open_application() as application:
        for job_id in ids:
            application.jobs.status(job_id)  # raises for one that is not there, before any is ended
        if foreign := application.jobs.find_foreign(ids):
            raise BackJobError(f"no job was cancelled: {_explain_foreign(foreign)}")
        was_live = {job_id: application.jobs.cancel(job_id) for job_id in ids}
        jobs = [application.jobs.status(job_id) for job_id in was_live]
    screen = open_screen(is_json)
    if is_json:
        screen.write_json([{**job.as_dict(), "was_live": was_live[job.id]} for job in jobs])
        return
    for job in jobs:
        screen.write_line(f"job {job.id}  {'' if was_live[job.id] else 'had ended: '}{name_status(job)}")


@backjob.command()
@give_id
@give_connect
@give_json
def retry(job_id: int, connect: str | None, is_json: bool) -> None:
    """Start an ended job again.

    It must have been anonymous, and not completed. Prints the ID of the new one.
    """
    with open_application(connect) as application:
        warnings = _check_home(application)
        new_id = application.jobs.retry(job_id)
    open_screen(is_json).write(str(new_id), {"id": new_id})
    _warn(warnings)


@backjob.command()
@give_json
def sweep(is_json: bool) -> None:
    """Settle the jobs that were lost. Takes a little longer than the lease."""
    with open_application() as application:
        if sys.stderr.isatty():
            print(f"This takes a little longer than the lease of {application.config.lease:g} s.", file=sys.stderr)
        count = application.sweep()
    open_screen(is_json).write(f"Settled {_count_jobs(count)}.", {"settled": count})


@backjob.command()
@give_json
def prune(is_json: bool) -> None:
    """Delete the jobs that are older than the app keeps them."""
    with open_application() as application:
        count = application.prune()
    open_screen(is_json).write(f"Deleted {_count_jobs(count)}.", {"deleted": count})


def _explain_foreign(ids: Sequence[int]) -> str:
    jobs = f"{'job' if len(ids) == 1 else 'jobs'} {', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''}"
    return f"{jobs} {'was' if len(ids) == 1 else 'were'} started with another key. Set $BACKJOB_KEY to the app's key"


def _tell_foreign(ids: Sequence[int]) -> None:
    """Report the jobs in the list that were started with another key."""
    if ids:
        print(f"backjob: {_explain_foreign(ids)}", file=sys.stderr)


def _count_jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


@backjob.command()
@give_connect
@give_json
def check(connect: str | None, is_json: bool) -> int:
    """Will jobs work here? Makes one round trip to the app.

    The exit code is 0 if they will, else 1, with the cause.
    """
    with open_application(connect, needs_files=not names_app()) as application:
        found = _check(application)
    open_screen(is_json).write(clean(str(found)), found.as_dict())
    return OK if found.is_ok else NOT_OK


@backjob.command("create-table")
def create_table() -> None:
    """Make the job table, where it is not there."""
    with open_application(needs_files=False) as application:
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
@give_json
def demo(pause: float, is_to_break: bool, is_json: bool) -> int:
    """Serve a small app, start a job in it and watch that. Needs nothing, and leaves nothing behind.

    The exit code is 0 if the job completed, else 1.
    """
    return OK if run_demo(open_screen(is_json), pause, is_to_break) else NOT_OK
