"""The client, which is ``application.jobs`` and the base of ``environ["backjob"]``: start jobs, query them, end them.

Every call reads from the store. Calls of a running job do nothing here, so that one view of the app serves the
foreground and the background. The calls for recorded jobs are in existing_jobs.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from webob.request import BaseRequest

from backjob.errors import BackJobError
from backjob.keyring import new_nonce
from backjob.model.events import log_started
from backjob.model.job import JobRequest, NewJob
from backjob.runtime.process_identity import name_response
from backjob.storage.sql.lost_answers import one_call
from backjob.wsgi.mounts import find_mount
from backjob.wsgi.redirects import RedirectOk
from backjob.wsgi.request_size import limit_body

from .arguments import check_flags, check_numbers, check_options, check_scope
from .backend import Backend, Launch
from .capture import make_request, name_job
from .existing_jobs import ExistingJobs
from .retrying import open_again


class Jobs(ExistingJobs):
    """The jobs of an application, for one request (``environ``) or for code outside of a request (None)."""

    __slots__ = ("_path_info",)

    _start_response: Callable[..., Any] | None = None
    """The server's start_response, from which some facts of the server are read."""
    _came_through = False
    """True if this request came through BackJob, so that its environ shows the middleware outside of it."""

    def __init__(self, get_backend: Callable[[], Backend], environ: Mapping[str, Any] | None = None) -> None:
        self._get_backend = get_backend
        self._environ = environ
        # An inner app that mounts others changes PATH_INFO in the environ.
        self._path_info: str = environ.get("PATH_INFO", "") if environ is not None else ""

    def start(
        self,
        target: str | BaseRequest,
        params: Any = None,
        *,
        method: str = "GET",
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        scope: str = "",
        as_user: bool = True,
        delay: float = 0,
        priority: int = 0,
        retries: int = 0,
        unique: bool = False,
        after_response: bool = False,
        error_timeout: float | None = None,
        redirect_ok: RedirectOk | None = None,
    ) -> int:
        """Run a URL of this app in the background. Return the job's id after its record is committed.

        ``target`` is a path of this app as a browser requests it: with SCRIPT_NAME, with or without a query. It may be
        a ``webob.Request`` instead, whose path, body and end-to-end headers the job gets, but not its host. ``params``
        are added to the query, and ``data`` becomes an url-encoded body. Both are mappings, lists of pairs or
        MultiDicts, with lists for several values. ``method`` is any token of RFC 9110 except CONNECT. ``headers`` are
        further headers of this job. ``scope`` is free text (up to 255 characters) that limits where the job applies.
        ``as_user=False``: the job gets no cookie and no credential. ``delay``: seconds until it may run.
        ``priority``: waiting jobs with a higher one run first (-1000 to 1000). ``retries``: the number of times that
        it may run again after a failure. ``unique``: if an equal job (request, scope and user) has not ended, return
        that one's id and start none, even if it still waits for another request's response. ``after_response``: launch
        the job when this request's response has ended, and cancel it if the request raises or answers 5xx.
        ``error_timeout`` and ``redirect_ok`` are as in the application's options. A function must be at the
        top level of a module, so that another process can import it.

        Raises ValueError or TypeError for invalid arguments (RequestTooLarge for more bytes than ``max_request``),
        AddressError if the app's own address is not known, StoreError if the record can't be written, and the errors of
        ``identify``. Then no job was recorded.
        """
        backend = self._get_backend()
        check_numbers(delay, retries, priority, error_timeout)
        check_flags(as_user=as_user, unique=unique, after_response=after_response)
        check_scope(scope)
        request = make_request(
            self._environ,
            backend.config,
            target,
            params,
            method=method,
            data=data,
            headers=headers,
            as_user=as_user,
            redirect_ok=redirect_ok,
            mount=find_mount(self._environ, self._path_info) if self._environ is not None else None,
        )
        backend.launcher.check(self._environ)
        request = backend.self_request.note_origin(request, self._environ)
        if self._came_through and self._environ is not None:
            backend.warn_of_outer(self._environ)
        return self._add(
            backend,
            request,
            after_response=after_response,
            unique_keys=backend.keyring.digest(name_job(request, scope, backend.config, headers)) if unique else [],
            scope=scope,
            retries=retries,
            delay=delay,
            priority=priority,
            error_timeout=backend.config.error_timeout if error_timeout is None else error_timeout,
        )

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Check options of start() when a module is imported, as the ``background`` decorators do.

        Raises TypeError or ValueError for an option that start() does not have, or with a value that it refuses.
        """
        check_options(options, inspect.signature(cls.start).parameters)

    def retry(self, job_id: int | str, *, scope: str | None = None) -> int:
        """Start an anonymous job again that failed or was cancelled, and return the new job's id.

        The request of a user's job is not kept after its end. The new job is due at once. It has the other options of
        the old one, except ``unique``. Raises JobNotFound, BackJobError if the job can't be started again, and the
        errors of start().
        """
        backend = self._get_backend()
        job = self._find_one(backend.store.get, job_id, scope)
        request = open_again(backend, job)
        backend.launcher.check(self._environ)
        request = backend.self_request.note_origin(request, self._environ)
        new_id = self._add(
            backend,
            request,
            scope=job.scope,
            retries=job.retries,
            priority=job.priority,
            error_timeout=job.error_timeout,
        )
        self._log_act(f"started again as job {new_id}", job.id)
        return new_id

    def limit_body(self, environ: MutableMapping[str, Any]) -> None:
        """Raise RequestTooLarge if the body of this request is too large for a job, before it is read into memory.

        For integrations. A body that is sent in chunks has a CONTENT_LENGTH afterwards.
        """
        limit_body(environ, self._get_backend().config.request_limit)

    def cancel_waiting(self, job_id: int) -> None:
        """Cancel a waiting job that was started here with ``after_response``, because its transaction was rolled back.

        For integrations. It does nothing for other jobs, such as one that ``unique`` has found.
        """

    def _add(
        self,
        backend: Backend,
        request: JobRequest,
        *,
        after_response: bool = False,
        unique_keys: Sequence[str] = (),
        **given: Any,
    ) -> int:
        """Record a job, and launch it if it is new. ``given`` are further fields of a NewJob."""
        if after_response:
            self._check_after_response()
        holder = name_response(backend.monitor.owner) if after_response else new_nonce()
        uid = uuid.uuid4().hex
        # If the server's backlog is full of launches, the job waits as a row. This process launches it later.
        waits = backend.self_request.is_backlogged and not after_response and backend.has_dispatcher(self._environ)
        new = NewJob(
            uid=uid,
            request=request,
            **backend.identity,
            unique_key=unique_keys[0] if unique_keys else None,
            held_by=None if waits else holder,
            hold=backend.config.lease,
            **given,
        )
        sealed = b""

        def seal(job_id: int) -> bytes:
            nonlocal sealed
            sealed = backend.keyring.seal(job_id, uid, request)
            return sealed

        with one_call():  # start() waits only once for an unreachable database
            backend.limits.note_recorder(self._environ, self._start_response)
            job_id, is_new = backend.store.add(new, seal, unique_keys)
        if is_new:  # nothing may raise from here on, because the record is committed
            log_started(job_id, request)
            launch = Launch(job_id, holder, sealed, request)
            if waits:
                backend.dispatcher.look_after(new.delay)
            elif after_response:
                backend.renewals.hold(job_id, holder)
                self._launch_after_response(launch)
            else:
                backend.launch(launch, self._environ)
        return job_id

    def _check_after_response(self) -> None:
        raise BackJobError("after_response=True needs a request. Start the job in a request, or omit the option")

    def _launch_after_response(self, launch: Launch) -> None:
        self._check_after_response()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
