"""The client session, ``application.jobs`` and the base of ``environ["backjob"]``: start jobs, query them, end them.

Every call answers from the store. What belongs to a running job does nothing here, so that one view of the app serves
the foreground and the background. What needs no start of a job is in existing_jobs.
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
    """The jobs of an application, seen from one request (``environ``) or from outside of any (None)."""

    __slots__ = ("_path_info",)

    _start_response: Callable[..., Any] | None = None
    """The server's own, which tells of the server."""
    _came_through = False
    """Did this request come through BackJob, so that its environ shows what is outside of it?"""

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
        """Run a URL of this app in the background and return the job's id; by then its record is committed.

        ``target`` is what a browser would ask for: a path of this app, SCRIPT_NAME included, with or without a query;
        or a ``webob.Request``, of which the job has path, body and end-to-end headers, but not the host. ``params``
        are added to the query, ``data`` becomes an url-encoded body: mappings, lists of pairs, MultiDicts, with lists
        for several values. ``method`` is any token of RFC 9110 but CONNECT. ``headers``: further headers of this job.
        ``scope`` is free text (up to 255 characters) that limits where the job applies. ``as_user=False`` takes no
        cookie and no credential along. ``delay``: seconds until it may run.
        ``priority``: of the jobs that wait, one with more goes first (-1000 to 1000).
        ``retries``: how often it may run again after a failure. ``unique``: an unfinished job of the same request,
        scope and user is returned instead of a second one, also if it waits for another request's response.
        ``after_response``: launched when this request's response has ended, cancelled when the request raises or
        answers 5xx. ``error_timeout`` and ``redirect_ok`` as in the application's options. A function must be at the
        top level of a module, so that the process that runs the job can import it.

        Raises ValueError or TypeError for what can't be started (RequestTooLarge for more bytes than ``max_request``),
        AddressError where the app's own address is not known, StoreError when the record can't be written, and what
        ``identify`` raises. Then there is no job.
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
        """Check options of start() when a module is loaded, as the ``background`` decorators do.

        Raises TypeError or ValueError for an option that start() does not have, or with a value that it refuses.
        """
        check_options(options, inspect.signature(cls.start).parameters)

    def retry(self, job_id: int | str, *, scope: str | None = None) -> int:
        """Start an ended job again, and return the new job's id. For one that ran as nobody and did not complete.

        Of a user's job nothing is kept that it could run with. The new one is due at once; what else start() was given,
        but for ``unique``, goes for it too. Raises JobNotFound, BackJobError for a job that can't be started again, and
        what start() raises.
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
        """Raise RequestTooLarge if the body of this request is too large for a job, before it is in memory.

        For integrations, before they read it. A body that is sent in chunks has a CONTENT_LENGTH afterwards.
        """
        limit_body(environ, self._get_backend().config.request_limit)

    def cancel_waiting(self, job_id: int) -> None:
        """Cancel a job that was started here with ``after_response`` and waits: what it was started for is undone.

        For integrations, after a rollback. It does nothing for other jobs, such as one that ``unique`` has found.
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
        # With the server's backlog full of launches, this one waits as a row, which this process takes up itself.
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

        with one_call():  # start() waits only once for a database that does not answer
            backend.limits.note_recorder(self._environ, self._start_response)
            job_id, is_new = backend.store.add(new, seal, unique_keys)
        if is_new:  # from here on nothing raises: the record is committed
            log_started(job_id, request)
            launch = Launch(job_id, holder, sealed, request)
            if waits:
                backend.dispatcher.look_after(new.delay)
            elif after_response:
                backend.vouching.hold(job_id, holder)
                self._launch_after_response(launch)
            else:
                backend.launch(launch, self._environ)
        return job_id

    def _check_after_response(self) -> None:
        raise BackJobError("after_response needs a request: start the job from one, or leave the option away")

    def _launch_after_response(self, launch: Launch) -> None:
        self._check_after_response()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
