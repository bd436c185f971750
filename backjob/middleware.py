"""BackJob, the WSGI middleware: the public class, and the path of ordinary requests.

A request with a token goes to the endpoint. Any other request costs one look-up and one small object.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .application import Assembly
from .checks.report import Check
from .checks.site_check import is_visit
from .client.capture import may_run_in
from .client.jobs import Jobs
from .client.request_jobs import RequestJobs
from .config import make_config, read_settings
from .endpoint import TOKEN_KEY, Endpoint
from .errors import ConfigError, JobNotFound
from .keyring import SealError, new_nonce
from .model.job import Status
from .runtime.process_identity import RESPONSE
from .worker.current_job import CurrentJob
from .wsgi.iterables import AfterResponse
from .wsgi.response import make_server_environ

_ON_THE_WAY = {__package__, "bottle", "pyramid"}
"""Packages whose frames are skipped in the search for the module that wraps the app."""

WSGIApp = Callable[..., Iterable[bytes]]


class BackJob:
    """WSGI middleware: any URL of the wrapped app can run as a background job.

    The options are those of :class:`backjob.config.Config`, by keyword. None is required. Raises ConfigError for a
    wrong one. Nothing is connected, read or written before the first job is started or asked for.
    """

    def __init__(self, app: WSGIApp, **options: Any) -> None:
        if not callable(app):
            raise ConfigError(f"app must be a WSGI application, which is callable, got {type(app).__name__}")
        self.app = app
        """The wrapped app."""
        self.config = make_config(options)
        self._key = self.config.environ_key
        self._assembly = Assembly(app, self.config, self.config.app_name or _name_caller(app))
        # Looked up once, because an ordinary request may cost only a fraction of a microsecond.
        self._get_backend = self._assembly.get_backend
        bind = getattr(self.config.launcher, "bind", None)
        self._app = bind(self, app) if bind is not None else app
        self._endpoint = Endpoint(self._assembly, self._app)
        self.jobs = Jobs(self._get_backend)
        """The client for code outside of a request. To start jobs there, set ``connect=``."""

    @classmethod
    def from_settings(cls, app: WSGIApp, settings: Mapping[str, Any], prefix: str = "backjob.") -> BackJob:
        """Wrap the app with the options among these settings, such as those of an ini file, that have the prefix."""
        return cls(app, **read_settings(settings, prefix))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._assembly.serves and not is_visit():
            self._assembly.note_request()
        if TOKEN_KEY in environ:
            return self._endpoint.answer(environ, start_response)
        # This path may cost only a fraction of a microsecond. `make bench` measures it.
        if self._key in environ and isinstance(environ[self._key], Jobs):
            return self._app(environ, start_response)  # another BackJob is outside and gets the self-requests
        environ[self._key] = session = RequestJobs(self._get_backend, environ, start_response)
        try:
            iterable = self._app(environ, session.start_response)
        except BaseException:
            session.end(is_failed=True)
            raise
        if session.waiting is None:
            session.waiting = ()
            return iterable
        return AfterResponse(iterable, session.end, session.end_late)

    def check(self, environ: Mapping[str, Any] | None = None) -> Check:
        """Check whether jobs will work here, by one request to the app's own address. Takes a few seconds at most.

        In a request, give its ``environ``. Outside of one, it needs ``connect=`` or an earlier request, and calls the
        app once in this process, for two seconds at most. Raises nothing for a problem: the returned record names it,
        with its remedy.
        """
        return self._assembly.deployment.check(environ)

    @property
    def missing_files(self) -> list[str]:
        """The missing files that the first use would make: an SQLite file and its key file."""
        return self._assembly.missing_files

    def run_job(self, job_id: int, *, early: bool = False) -> bool:
        """Run a waiting job now, in this thread, without a request of a server. Return whether it ran.

        For launchers and tests: ``max_running`` does not apply. ``early``: run it even if it is not due. It can't run
        if it is not waiting, waits for a response, or belongs to another app or key. Raises StoreError, JobNotFound.
        """
        backend = self._get_backend()
        job = backend.store.get(job_id)
        if job is None:
            raise JobNotFound(f"There is no job {job_id}")
        is_held = (job.held_by or "").startswith(RESPONSE)
        if job.status is not Status.STARTED or (job.due_in and not early) or is_held:
            return False
        try:
            request = backend.keyring.unseal(job.id, job.uid, job.sealed)
        except SealError:
            return False
        owner = f"{backend.monitor.owner}-{new_nonce()}"
        if not may_run_in(backend.self_request.app, request) or not backend.store.claim(
            job.id, job.attempt, owner, backend.config.lease, 0
        ):
            return False
        return CurrentJob(backend, job, request, make_server_environ()).run(self._app, owner)

    def jobs_of(self, environ: Mapping[str, Any]) -> Jobs:
        """Return the client of a request that did not come through this middleware, as with some test clients.

        It can't start jobs with ``after_response``, because the end of the response is not known.
        """
        return Jobs(self._get_backend, environ)

    def sweep(self) -> int:
        """Recover the lost jobs of all applications in the table. Return their number.

        The keepers of serving processes do the same for the jobs of their own application.

        If a job may be lost, it takes a little longer than ``lease``, in which a living process would renew the lease.
        Raises StoreError.
        """
        return self._get_backend().make_keeper().recover_all()

    def prune(self) -> int:
        """Delete jobs that are older than ``backlog_days`` and ``all_backlog_days``. Return their number.

        The keeper does the same, a few jobs at a time. Raises StoreError.
        """
        return self._get_backend().make_keeper().prune_all()

    def create_table(self) -> None:
        """Create the job table now if it does not exist, whatever ``create_table=`` is. Raises StoreError.

        Raises ConfigError with ``database=None``.
        """
        self._assembly.create_table()

    def close(self) -> None:
        """Stop launching waiting jobs, and close idle connections. A later call opens them again."""
        self._assembly.close()


def _name_caller(app: WSGIApp) -> str:
    """Return a name of this app that is the same in each process and after a restart: its wrapper and its type."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _ON_THE_WAY:
        frame = frame.f_back
    names = frame.f_globals if frame is not None else {}
    module = getattr(names.get("__spec__"), "name", None) or names.get("__name__", "")
    if module == "__main__":
        module = Path(names.get("__file__") or "").stem
    kind = app if hasattr(app, "__qualname__") else type(app)
    owner = getattr(app, "__self__", app)
    variable = next((name for name, value in names.items() if value is app or value is owner), "")
    return f"{module} {kind.__module__}.{kind.__qualname__} {variable}".rstrip()


def make_filter(app: WSGIApp, global_conf: Mapping[str, str], **settings: str) -> BackJob:
    """Wrap the app, as a ``paste.filter_app_factory``: the options are those in ``[filter:backjob]`` of an ini file."""
    return BackJob.from_settings(app, settings, prefix="")
