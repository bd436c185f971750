"""The client session: start jobs, ask for them, end them. ``application.jobs``, and the base of ``environ["backjob"]``.

Every call answers from the store. What belongs to a running job does nothing here, so that one action of the app serves
the foreground and the background.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeVar

from webob.request import BaseRequest

from .arguments import check_flags, check_numbers, check_progress, check_scope, check_text, check_total, parse_id
from .backend import Backend, Launch
from .errors import BackJobError, JobFailed, JobNotFound
from .job import Job, JobRequest, JobStatus, Move, NewJob, Status
from .keyring import new_nonce
from .output import clean_text, cut_text
from .process import name_response
from .request import find_mount, make_request, name_user

Found = TypeVar("Found", Job, JobStatus)
Row = TypeVar("Row")


class Jobs:
    """The jobs of an application, seen from one request (``environ``) or from outside of any (None)."""

    __slots__ = ("_environ", "_get_backend", "_path_info")

    is_worker = False
    """Does this request run as a background job?"""
    job_id: int | None = None
    """The id of the job that runs here."""
    attempt: int | None = None
    """Which run of this job it is, from 1."""

    _start_response: Callable[..., Any] | None = None
    """The server's own, which tells of the server."""

    def __init__(self, get_backend: Callable[[], Backend], environ: Mapping[str, Any] | None = None) -> None:
        self._get_backend = get_backend
        self._environ = environ
        # An app within this one that mounts others changes the environ itself.
        self._path_info: str = environ.get("PATH_INFO", "") if environ is not None else ""

    def start(
        self,
        target: str | BaseRequest,
        params: Any = None,
        *,
        method: str = "GET",
        data: Any = None,
        scope: str = "",
        as_user: bool = True,
        delay: float = 0,
        priority: int = 0,
        retries: int = 0,
        unique: bool = False,
        after_response: bool = False,
        error_timeout: float | None = None,
        redirect_ok: bool | None = None,
    ) -> int:
        """Run a URL of this app in the background and return the job's id; by then its record is committed.

        ``target`` is what a browser would ask for: a path of this app, SCRIPT_NAME included, with or without a query;
        or a ``webob.Request``, of which the path counts and not the host. ``params`` are added to the query, ``data``
        becomes an url-encoded body: mappings, lists of pairs, MultiDicts, with lists for several values. ``method`` is
        any token of RFC 9110 but CONNECT. ``scope`` is free text (up to 255 characters) that limits where the job
        applies. ``as_user=False`` takes no cookie and no credential along. ``delay``: seconds until it may run.
        ``priority``: of the jobs that wait, one with more goes first (-1000 to 1000).
        ``retries``: how often it may run again after a failure. ``unique``: an unfinished job of the same request,
        scope and user is returned instead of a second one, also if it waits for another request's response.
        ``after_response``: launched when this request's response has ended, cancelled when the request raises or
        answers 5xx. ``error_timeout`` and ``redirect_ok`` as in the application's options.

        Raises ValueError or TypeError for what can't be started, AddressError where the app's own address is not
        known, StoreError when the record can't be written. When it raises, there is no job.
        """
        backend = self._get_backend()
        check_numbers(delay, retries, priority, error_timeout)
        check_flags(as_user=as_user, unique=unique, after_response=after_response)
        if redirect_ok is not None:
            check_flags(redirect_ok=redirect_ok)
        check_scope(scope)
        request = make_request(
            self._environ,
            backend.config,
            target,
            params,
            method=method,
            data=data,
            as_user=as_user,
            redirect_ok=redirect_ok,
            mount=find_mount(self._environ, self._path_info) if self._environ is not None else None,
        )
        backend.launcher.check(self._environ)
        request = backend.self_request.note_origin(request, self._environ)
        if after_response:
            self._check_after_response()
        holder = name_response(backend.monitor.owner) if after_response else new_nonce()
        uid = uuid.uuid4().hex
        # With the server's backlog full of launches, this one waits as a row, which this process takes up itself.
        waits = backend.self_request.is_crowded and not after_response and backend.has_dispatcher(self._environ)
        unique_keys = _unique_keys(backend, request, scope, as_user) if unique else []
        new = NewJob(
            uid=uid,
            request=request,
            key_id=backend.keyring.key_id,
            app_id=backend.self_request.home,
            scope=clean_text(scope),
            retries=retries,
            delay=delay,
            priority=priority,
            error_timeout=backend.config.error_timeout if error_timeout is None else error_timeout,
            unique_key=unique_keys[0] if unique_keys else None,
            held_by=None if waits else holder,
            hold=backend.config.lease,
        )
        sealed = b""

        def seal(job_id: int) -> bytes:
            nonlocal sealed
            sealed = backend.keyring.seal(job_id, uid, request)
            return sealed

        job_id, is_new = backend.store.add(new, seal, unique_keys)
        if is_new:
            # With connect= the jobs may run elsewhere: what serves them tells of itself.
            here = self._environ if backend.config.connect is None else None
            backend.limits.note_process(here, self._start_response)
            launch = Launch(job_id, holder, sealed, request)
            if waits:
                backend.dispatcher.look_after(delay)
            elif after_response:
                backend.vouching.hold(job_id, holder)
                self._launch_after_response(launch)
            else:
                backend.launch(launch, self._environ)
        return job_id

    def status(self, job_id: int | str, *, scope: str | None = None) -> JobStatus:
        """How a job stands, or stood up to a second ago where a cache is used. Never writes.

        Raises JobNotFound, also for a job of another scope when one is given.
        """
        return self._find_one(self._get_backend().store.status, job_id, scope)

    def exists(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """Is there such a job (in this scope)?"""
        try:
            self.status(job_id, scope=scope)
        except JobNotFound:
            return False
        return True

    def cancel(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """End a job: one that waits at once, a running one at its next sign. True if it was live.

        Raises JobNotFound.
        """
        store = self._get_backend().store
        while not (job := self._find_one(store.get, job_id, scope)).status.is_final:
            # Between the look and the write the job may have gone on: then look again.
            if job.status is Status.INPROGRESS and store.request_cancel(job.id):
                return True
            if job.status is Status.STARTED and store.move(Move.CANCEL, job.id, attempt=job.attempt):
                return True
        return False

    def find(
        self,
        status: Status | int | Iterable[Status | int] | None = None,
        scope: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[JobStatus]:
        """Jobs in one of these statuses and of this scope, the newest first; ``before`` an id, to page on."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= 1000:
            raise ValueError("limit must be a whole number from 1 to 1000")
        if isinstance(status, str):
            raise ValueError("status must be a Status, its number, or a list of such")  # noqa: TRY004 - as a wrong number
        statuses = [status] if isinstance(status, int) else status
        wanted = [Status(each) for each in statuses] if statuses is not None else None
        cursor = parse_id(before) if before is not None else None
        if before is not None and cursor is None:
            raise ValueError("before must be the id of a job")
        scope = clean_text(scope) if scope is not None else None
        return [job.as_status() for job in self._get_backend().store.find(wanted, scope, limit, cursor)]

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Tell the progress of this job. Outside of a job it does nothing; ValueError for a progress that is none."""
        if progress is not None:
            check_progress(progress)

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Add to the progress of this job. Outside of a job it does nothing; ValueError for what is no progress."""
        check_progress(n)

    def write(self, text: str) -> int:
        """Add to the output of this job. Outside of a job it does nothing."""
        return len(check_text(text))

    def flush(self) -> None:
        """For ``print(…, file=…, flush=True)``."""

    def track(self, rows: Iterable[Row], total: float | None = None, *, to: float = 100) -> Iterator[Row]:
        """Go through these rows, and tell the progress of this job with each that is done: from where it is to ``to``.

        ``total`` is how many they are, by default what len() says; where that is not known each row is a sign of the
        job without a number. At the end the progress is ``to``. Outside of a job the rows come, and nothing is told.
        Raises ValueError for a ``total`` or ``to`` that is no number.
        """
        if total is None and isinstance(rows, Sized):
            total = len(rows)
        return self._track(rows, check_total(total), check_progress(to))

    def check_user(self) -> None:
        """In a job: end it here, without a retry, if the session has ended or belongs to another user by now.

        Who started the job is what ``identify`` said of that request; it is asked again of the request that the job is.
        Call it as soon as your framework knows its session; the integrations do. Outside of a job, and where the user
        is not known by ``identify``, it does nothing.
        """

    def note_exception(self, error: BaseException) -> None:
        """In a job: this is what the app answers with a 5xx for. The job then names its type and message.

        For what a framework makes an error page of; the integrations call it. Outside of a job it does nothing.
        """

    def cancel_waiting(self, job_id: int) -> None:
        """Cancel a job that was started here with ``after_response`` and waits: what it was started for is undone.

        For integrations, where a transaction is rolled back and the response is no failure. It does nothing for any
        other job, such as one that ``unique`` has found.
        """

    def finish(self, text: str | None = None, job_id: int | str | None = None) -> None:
        """Complete the running job with this id now. Without an id, and outside of a job, it does nothing."""
        if job_id is not None:
            self._end(Move.COMPLETE, job_id, text, progress=100)

    def fail(self, text: str | None = None, job_id: int | str | None = None, retry: bool = True) -> None:
        """Fail the live job with this id, for good. Without an id, and outside of a job, it raises JobFailed."""
        if job_id is None:
            raise JobFailed(text)
        self._end(Move.FAIL, job_id, text)

    def _track(self, rows: Iterable[Row], total: float | None, to: float) -> Iterator[Row]:
        return iter(rows)

    def _find_one(self, read: Callable[[int], Found | None], job_id: int | str, scope: str | None) -> Found:
        parsed = parse_id(job_id)
        scope = clean_text(scope) if scope is not None else None
        found = read(parsed) if parsed is not None else None
        if found is None or (scope is not None and found.scope != scope):
            name = repr(job_id[:20]) if isinstance(job_id, str) else parsed
            raise JobNotFound(
                f"There is no job {name or ''}".rstrip() + (" in this scope" if scope is not None else "")
            )
        return found

    def _end(self, move: Move, job_id: int | str, text: str | None, progress: int | None = None) -> None:
        backend = self._get_backend()
        job = self._find_one(backend.store.get, job_id, None)
        text = cut_text(text, backend.config.max_output) if text is not None else None
        backend.store.move(move, job.id, text=text, progress=progress)

    def _check_after_response(self) -> None:
        raise BackJobError("after_response needs a request: start the job from one, or leave the option away")

    def _launch_after_response(self, launch: Launch) -> None:
        self._check_after_response()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _unique_keys(backend: Backend, request: JobRequest, scope: str, as_user: bool) -> list[str]:
    user = name_user(request) if as_user else ""
    site = (request.scheme, request.headers.get("HTTP_HOST"))
    what = (request.method, request.target, request.content_type, request.body)
    return backend.keyring.digest(repr((site, what, scope, user)))
