"""The commands: their arguments, their calls of the application, and their output.

Makes no decision about a job and draws nothing.
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
    STATUS_WORDS,
    StatusName,
    backjob,
    connect_option,
    has_app,
    id_argument,
    ids_argument,
    json_option,
    open_application,
    run_group,
)
from .pairs import headers_option, pairs_option
from .screen import clean, clean_line, name_status, open_screen
from .watch import watch_jobs

_KEY_BYTES = 48
_REASONS_TO_WAIT = ("not-reached", "other-store")
"""Names of findings for which a job may have to wait."""


def run() -> NoReturn:
    """Run the command that this process was called with."""
    run_group()


@backjob.command("list")
@click.option(
    "--status",
    "statuses",
    type=StatusName(),
    metavar="STATUS",
    multiple=True,
    help=f"Only jobs with this status: {STATUS_WORDS}. May be given several times.",
)
@click.option("--scope", help="Only jobs of this scope.")
@click.option(
    "--limit", metavar="NUMBER", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number."
)
@click.option("--before", metavar="ID", type=ID, help="Only jobs that are older than this one.")
@json_option
def list_jobs(statuses: Sequence[Status], scope: str | None, limit: int, before: int | None, is_json: bool) -> None:
    """List jobs, the newest first."""
    with open_application() as application:
        jobs = application.jobs.find(statuses or None, scope, limit, before)
        foreign = application.jobs.find_foreign(job.id for job in jobs)
    open_screen(is_json).write_jobs(jobs)
    # Jobs that ended before the key was changed need no warning.
    if len(foreign) == len(jobs) or any(job.id in foreign and not job.status.is_final for job in jobs):
        _warn_of_foreign(foreign)


@backjob.command()
@id_argument
@json_option
def show(job_id: int, is_json: bool) -> None:
    """Show a job: all fields of its status, and its status text."""
    with open_application() as application:
        job = application.jobs.status(job_id)
        foreign = application.jobs.find_foreign([job_id])
    open_screen(is_json).write_job(job)
    _warn_of_foreign(foreign)


@backjob.command()
@ids_argument
@json_option
def watch(ids: Sequence[int], is_json: bool) -> int:
    """Watch jobs until they have ended. Ctrl-C ends only the watching.

    The exit code is 0 if all of them completed, else 1.
    """
    with open_application() as application:
        _warn_of_foreign(application.jobs.find_foreign(ids))
        return OK if watch_jobs(application.jobs, ids, open_screen(is_json)) else NOT_OK


@backjob.command()
@click.argument("target")
@click.option("--method", help="Method of the request. Default: POST with --data, else GET.")
@pairs_option("--param", "params", help="Parameter of the query. May be given several times.")
@pairs_option("--data", help="Field of the form that is sent. May be given several times.")
@headers_option(
    "-H", "--header", "headers", help="Further header, such as 'If-Match: \"5\"'. May be given several times."
)
@click.option("--scope", default="", help="Text that limits where the job applies.")
@click.option("--delay", metavar="SECONDS", type=float, default=0, help="Seconds until it may run.")
@click.option("--priority", type=int, default=0, help="Waiting jobs with a higher priority run first.")
@click.option("--retries", type=int, default=0, help="Number of times that it may run again after a failure.")
@click.option("--unique", is_flag=True, help="If an equal job has not ended, print the ID of that job.")
@click.option("--error-timeout", metavar="SECONDS", type=float, help="Fail it after so long without a progress report.")
@click.option("--redirect-ok", is_flag=True, default=None, help="A redirect as the response completes it.")
@click.option("--watch", "watches", is_flag=True, help="Watch it afterwards, as 'backjob watch' does.")
@connect_option
@json_option
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

    TARGET is a path of the app, with or without a query. The job is anonymous: its request has no cookie and no
    credential.

    Arguments are visible in the list of processes. To keep a secret out of it, give --data, --param or --header as
    @FILE, a file with one NAME=VALUE (or NAME: VALUE) per line, or as @- for such lines on standard input.
    """
    screen = open_screen(is_json)
    with open_application(connect, needs_files=not has_app()) as application:
        warnings = _check_app(application)
        method = method or ("POST" if data else "GET")
        try:
            job_id = application.jobs.start(target, params, method=method, data=data or None, as_user=False, **options)
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error), click.get_current_context()) from error
        screen.write(str(job_id), {"id": job_id})
        _warn(warnings)
        if not watches:
            return OK
        application.close()  # from here on only the servers launch jobs
        return OK if watch_jobs(application.jobs, [job_id], screen) else NOT_OK


def _check_app(application: BackJob) -> list[str]:
    """Return warnings with reasons why a job that is started now may have to wait, or may fail.

    A server that is down or busy runs the job later. Raises BackJobError if no server can ever run it, so that nothing
    is recorded.
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
    """Return the result of a check without the warning "other-app", because the command is never the serving app."""
    with contextlib.redirect_stdout(sys.stderr):  # the check calls the app, which may print
        found = application.check()
    return replace(found, warnings=tuple(each for each in found.warnings if each.name != "other-app"))


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        print(f"backjob: the job {clean_line(text)}", file=sys.stderr)


@backjob.command()
@ids_argument
@json_option
def cancel(ids: Sequence[int], is_json: bool) -> None:
    """Cancel jobs.

    A waiting job ends at once, a running one at its next heartbeat: its next update() or output.
    """
    with open_application() as application:
        for job_id in ids:
            application.jobs.status(job_id)  # raises for an unknown job, before any job is cancelled
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
@id_argument
@connect_option
@json_option
def retry(job_id: int, connect: str | None, is_json: bool) -> None:
    """Start an ended job again.

    It must be anonymous, and must have failed or been cancelled. Prints the ID of the new job.
    """
    with open_application(connect) as application:
        warnings = _check_app(application)
        new_id = application.jobs.retry(job_id)
    open_screen(is_json).write(str(new_id), {"id": new_id})
    _warn(warnings)


@backjob.command()
@json_option
def sweep(is_json: bool) -> None:
    """Recover lost jobs. Takes a little longer than the lease if there are any."""
    with open_application() as application:
        if sys.stderr.isatty():
            print(f"This takes a little longer than the lease of {application.config.lease:g} s.", file=sys.stderr)
        count = application.sweep()
    open_screen(is_json).write(f"Recovered {_count_jobs(count)}.", {"settled": count})


@backjob.command()
@json_option
def prune(is_json: bool) -> None:
    """Delete old jobs, as the app's options backlog_days and all_backlog_days say."""
    with open_application() as application:
        count = application.prune()
    open_screen(is_json).write(f"Deleted {_count_jobs(count)}.", {"deleted": count})


def _explain_foreign(ids: Sequence[int]) -> str:
    jobs = f"{'job' if len(ids) == 1 else 'jobs'} {', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''}"
    return f"{jobs} {'was' if len(ids) == 1 else 'were'} started with another key. Set $BACKJOB_KEY to the app's key"


def _warn_of_foreign(ids: Sequence[int]) -> None:
    """Warn about jobs that were started with another key."""
    if ids:
        print(f"backjob: {_explain_foreign(ids)}", file=sys.stderr)


def _count_jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


@backjob.command()
@connect_option
@json_option
def check(connect: str | None, is_json: bool) -> int:
    """Check whether jobs will work here. Makes one round trip to the app.

    The exit code is 0 if they will work, else 1, with the cause.
    """
    with open_application(connect, needs_files=not has_app()) as application:
        found = _check(application)
    open_screen(is_json).write(clean(str(found)), found.as_dict())
    return OK if found.is_ok else NOT_OK


@backjob.command("create-table")
def create_table() -> None:
    """Create the job table if it does not exist."""
    with open_application(needs_files=False) as application:
        application.create_table()
        application.jobs.exists(1)  # reads the table, and makes the key file if the app uses one
        click.echo(f"The table {application.config.table_name} exists.")


@backjob.command()
def key() -> None:
    """Print a new random key, for key= or $BACKJOB_KEY."""
    click.echo(secrets.token_urlsafe(_KEY_BYTES))


@backjob.command()
@click.option(
    "--pause",
    metavar="SECONDS",
    type=click.FloatRange(0, 60),
    default=0.6,
    show_default=True,
    help="Duration of a step.",
)
@click.option("--break", "is_to_break", is_flag=True, help="Fail the job at its last step.")
@json_option
def demo(pause: float, is_to_break: bool, is_json: bool) -> int:
    """Serve a small app, start a job in it and watch the job. Needs no other files, and leaves none behind.

    The exit code is 0 if the job completed, else 1.
    """
    return OK if run_demo(open_screen(is_json), pause, is_to_break) else NOT_OK
