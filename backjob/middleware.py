"""BackJob, the WSGI middleware: the public class, and the path of ordinary requests.

A request with a token goes to the endpoint. Everything else costs one look-up and one small object.
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
"""Whose calls stand between an app and its BackJob: an integration is called by its framework."""

WSGIApp = Callable[..., Iterable[bytes]]


class BackJob:
    """WSGI middleware: any URL of the wrapped app can run as a background job.

    The options are those of :class:`backjob.config.Config`, all of them by name, none of them needed. Raises
    ConfigError for a wrong one. Nothing is connected, read or written before the first job or question for one.
    """

    def __init__(self, app: WSGIApp, **options: Any) -> None:
        if not callable(app):
            raise ConfigError("app is no WSGI application: it can't be called")
        self.app = app
        """The wrapped app."""
        self.config = make_config(options)
        self._key = self.config.environ_key
        self._assembly = Assembly(app, self.config, self.config.app_name or _name_caller(app))
        # Looked up once: an ordinary request is counted in fractions of a microsecond.
        self._get_backend = self._assembly.get_backend
        bind = getattr(self.config.launcher, "bind", None)
        self._app = bind(self, app) if bind is not None else app
        self._endpoint = Endpoint(self._assembly, self._app)
        self.jobs = Jobs(self._get_backend)
        """The client side for code outside of a request. Starting jobs there needs ``connect=``."""

    @classmethod
    def from_settings(cls, app: WSGIApp, settings: Mapping[str, Any], prefix: str = "backjob.") -> BackJob:
        """Wrap the app with the options among these settings, such as an ini file's, whose names have the prefix."""
        return cls(app, **read_settings(settings, prefix))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._assembly.serves and not is_visit():
            self._assembly.note_request()
        if TOKEN_KEY in environ:
            return self._endpoint.answer(environ, start_response)
        # This path is counted in fractions of a microsecond: make bench shows them.
        if self._key in environ and isinstance(environ[self._key], Jobs):
            return self._app(environ, start_response)  # within another BackJob, to which the self-requests come
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
        """Will jobs work here? Makes one round trip to the app's own address, and takes a few seconds at most.

        In a request, give its ``environ``. Outside of one, ``connect=`` is needed, or a request that came before, and
        the app is called once in this process, for two seconds at most.
        Raises nothing for what it finds: the record says what is wrong, and what mends it.
        """
        return self._assembly.deployment.check(environ)

    @property
    def missing_files(self) -> list[str]:
        """The files that are not there and would be made at first use: that of an SQLite database, and its key file."""
        return self._assembly.missing_files

    def run_job(self, job_id: int, *, early: bool = False) -> bool:
        """Run a job that waits here and now, in this thread: through the app, with no request of a server.

        For launchers and tests: no ``max_running`` counts. ``early``: also before it is due. False when it does not
        wait, is not due, waits for a response, or is another app's or of another key. Raises StoreError, JobNotFound.
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
        """The client session of a request that did not come through here, as with a framework's own test client.

        With ``after_response`` it can start nothing, for nobody tells it when the response has ended.
        """
        return Jobs(self._get_backend, environ)

    def sweep(self) -> int:
        """Settle the jobs that were lost, as the keeper of a serving process does all the time; how many it were.

        Where one looks lost it takes a little longer than ``lease``, in which everybody alive has to be heard. Raises
        StoreError.
        """
        return self._get_backend().make_keeper().settle_all()

    def prune(self) -> int:
        """Delete what is older than ``backlog_days`` and ``all_backlog_days``, and tell how many jobs it was.

        The keeper does the same, a few at a time. Raises StoreError.
        """
        return self._get_backend().make_keeper().prune_all()

    def create_table(self) -> None:
        """Make the job table now if it is not there, whatever ``create_table=`` says. Raises StoreError.

        Raises ConfigError where the jobs are in a cache alone.
        """
        self._assembly.create_table()

    def close(self) -> None:
        """Stop looking for jobs that wait, and close the connections that are not in use. A later call begins anew."""
        self._assembly.close()


def _name_caller(app: WSGIApp) -> str:
    """What tells this app from others, in every process and after every restart: who wrapped it, and what it is."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _ON_THE_WAY:
        frame = frame.f_back
    where = frame.f_globals if frame is not None else {}
    module = getattr(where.get("__spec__"), "name", None) or where.get("__name__", "")
    if module == "__main__":
        module = Path(where.get("__file__") or "").stem
    what = app if hasattr(app, "__qualname__") else type(app)
    owner = getattr(app, "__self__", app)
    variable = next((name for name, value in where.items() if value is app or value is owner), "")
    return f"{module} {what.__module__}.{what.__qualname__} {variable}".rstrip()


def make_filter(app: WSGIApp, global_conf: Mapping[str, str], **settings: str) -> BackJob:
    """Wrap the app, as a ``paste.filter_app_factory``: the options are those in ``[filter:backjob]`` of an ini file."""
    return BackJob.from_settings(app, settings, prefix="")
