"""Every option of BackJob, explained where it stands: one frozen Config, validated at construction.

Knows what each option may be. Opens nothing, but looks whether a named CA file is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._socket import check_ca_file, is_header_value
from .keyring import check_keys
from .model.address import Address, parse_connect
from .model.job import JobStatus
from .validation import (
    MOST,
    TIMEOUT,
    check_function,
    check_header_names,
    check_methods,
    check_number,
    check_own_headers,
    check_pattern,
    check_redirects,
    check_scope_limits,
    check_short_name,
    check_whole,
    check_with,
    is_timeout,
    refuse,
    suggest,
)
from .wsgi.headers import FORWARD_HEADERS
from .wsgi.outer import find_fault
from .wsgi.redirects import RedirectOk
from .wsgi.site_url import SiteUrl, parse_site_url

try:
    __version__ = version("backjob")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

MOST_CACHED = 65536
"""Bytes of the largest request in a cache that is the only store."""
MOST_SCOPE = 255
"""Characters of a scope."""
MONITORS = ("auto", "thread", "request", "leave")
HOOKS = ("on_start", "on_update", "on_end")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of :class:`backjob.BackJob`. Raises ConfigError, which names the option and what is allowed."""

    database: Any = field(default="sqlite:///backjob.sqlite3", repr=False)
    """SQLAlchemy URL or Engine of the database that holds the job table. It may be the app's own.
    None: no database, the ``cache`` alone."""

    cache: Any = field(default=None, repr=False)
    """A dogpile.cache region, configured, in front of the database; with ``database=None`` instead of it."""

    key: str | list[str] | tuple[str, ...] | None = field(default=None, repr=False)
    """Secret of 32 or more characters, or a list of such, newest first. None: $BACKJOB_KEY; without it, for an SQLite
    file only, a random key that is kept beside it in a file of its own."""

    table_name: str = "background_job"
    """Name of the job table."""

    create_table: bool = True
    """Make the job table at first use when it is not there."""

    cache_prefix: str = "backjob-"
    """Prefix of the keys in the cache."""

    error_timeout: float = 120
    """Seconds without a sign from the running job after which it fails, at least 0.5. 0: never. Also per start()."""

    user_agent: str = f"backjob/{__version__}"
    """User-Agent of the self-requests, of anonymous jobs, and of jobs that were started outside of a request."""

    backlog_days: float = 30
    """Days that completed jobs are kept. 0: for ever."""

    all_backlog_days: float = 60
    """Days that any ended job is kept. 0: for ever."""

    connect: str | None = None
    """The app's own address: ``"http://127.0.0.1:8000"``, ``"https://…"`` (its certificate is verified) or
    ``"unix:/run/app.sock"``. None: found from the server of each request."""

    site_url: str | None = None
    """URL at which people reach the app, such as ``"https://shop.example"`` or ``"https://shop.example/mount"``: Host,
    scheme, port and SCRIPT_NAME of jobs that are started outside of a request. None: those of ``connect``, and the
    SCRIPT_NAME with which the request arrives."""

    ca_file: str | None = None
    """PEM file of the authority that signed the certificate at ``connect="https://…"``. None: the system's."""

    connect_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of every self-request, for what stands in front of the app, such as a proxy's Basic auth. The app does
    not see them."""

    close_delay: float = 0.2
    """Seconds that start() waits at most for the monitor's answer before it closes its socket."""

    monitor: str = "auto"
    """Where the monitor waits for the job: ``"thread"``, ``"request"``, ``"leave"``, or ``"auto"``, which is thread,
    and leave where a server's threads don't outlive a request."""

    lease: float = 30
    """Seconds for which a process vouches for a job that it runs or is about to launch."""

    launch_timeout: float = 60
    """Seconds for which a failed launch is tried again before the job fails. It holds for an address that has never
    worked. At one that has, a failure is an outage: the job waits for up to a day, with the reason as status text."""

    max_running: int | str = "auto"
    """Jobs that run at once in the whole deployment. 0: no limit. ``"auto"``: half of the requests that its processes
    take at once, and at least 1; 4 for each process of which that is not known."""

    max_running_per_process: int = 0
    """Jobs that run at once in one process. 0: the number in ``max_running``, or with "auto" half of its slots."""

    max_running_per_scope: int | Mapping[str, int] = 0
    """Jobs that run at once in each scope that is not "", or a mapping of scopes to such numbers. 0: no limit."""

    keeper: bool = True
    """Whether this process has a keeper, which recovers lost jobs, launches due ones and deletes old ones. False for
    one that only asks for jobs or starts them, such as a script: it vouches for what it runs itself, and no more."""

    app_name: str | None = None
    """Name of the app, which tells its jobs from those of other apps in the same table: 1-64 printable ASCII
    characters without blanks, the same in all its processes. None: a name made from where the app is wrapped."""

    app_version: str | None = None
    """Version of the app's code, such as a commit: 1-64 printable ASCII characters. A job runs in processes of the
    version that recorded it while one of them is alive or was within the last 60 s, then in any. None: in any."""

    forward_headers: tuple[str, ...] = FORWARD_HEADERS
    """Request headers that a job gets from the request that started it, beside Cookie, Authorization and Host. For one
    job, start() has ``headers=``."""

    forward_environ: tuple[str, ...] = ()
    """Environ keys, such as ``"OIDC_CLAIM_email"`` or ``"eppn"``, whose texts a job gets from the request that started
    it; with a ``*`` at the end all that begin so. Known ones of authentication modules go along without it."""

    redirect_ok: RedirectOk = False
    """Which redirects complete a job: none, all (True), those below a path (``"/ticket/"``, the mount included), or
    those for which a function of (status, location) returns True. A redirect to a login page never does, nor one that
    only corrects the job's own URL, nor a 307 or 308. Also per start()."""

    max_output: int = 1048576
    """Bytes of UTF-8 that are kept of a job's output: the last ones, or up to an eighth less, on whole lines."""

    max_request: int = 1048576
    """Largest request of a job in bytes: body, URL, headers and the rest of its sealed record. For a larger one start()
    raises :class:`backjob.RequestTooLarge`, and ``background`` views answer 413. 0: no limit. With a cache as the only
    store, where each look at a job reads all of it, the limit is 65536 at most."""

    identify: Callable[[Mapping[str, Any]], str | None] | None = None
    """Function of an environ that returns the name of its user, or None for an anonymous request. It is called by each
    start() of a user's job, for ``unique`` and for ``check_user()``. Where it can't know, as in a middleware around the
    framework, it raises :class:`backjob.IdentityUnknown`: the user of that job is not compared. Without ``identify``,
    ``unique`` uses REMOTE_USER, or else a digest of the Authorization and Cookie headers."""

    on_start: Callable[[JobStatus], object] | None = None
    """Called with the :class:`backjob.JobStatus` of each job that was recorded, by the process that started it."""

    on_update: Callable[[JobStatus], object] | None = None
    """Called with that of a job each time when its progress or text was written: a few times a second at most."""

    on_end: Callable[[JobStatus], object] | None = None
    """Called with that of a job that has ended, once, by the process that wrote the end: in the job's own thread, or in
    one apart. An exception in a hook is logged and harms no job; one that a process did not come to is not made up."""

    launcher: Any = None
    """A :class:`backjob.Launcher` that takes the place of the self-request. None: the self-request."""

    environ_key: str = "backjob"
    """The key in the environ under which the app finds its jobs."""

    def __post_init__(self) -> None:
        self._check_storage()
        check_pattern("cache_prefix", self.cache_prefix, r"[\x21-\x7e]{0,64}", "up to 64 printable ASCII characters")
        check_pattern("environ_key", self.environ_key, r"[\x21-\x7e]+", "a name of printable ASCII characters")
        check_with("app_name", self.app_name, check_short_name)
        check_with("app_version", self.app_version, check_short_name)
        for name in ("create_table", "keeper"):
            if not isinstance(getattr(self, name), bool):
                refuse(name, "must be True or False")
        check_redirects(self.redirect_ok)
        if not is_timeout(self.error_timeout):
            refuse("error_timeout", f"must be {TIMEOUT}")
        for name in ("backlog_days", "all_backlog_days", "launch_timeout"):
            check_number(name, getattr(self, name), 0, MOST)
        check_number("close_delay", self.close_delay, 0.01, 60)
        check_number("lease", self.lease, 1, 86400)
        for name in ("max_output", "max_request"):
            check_whole(name, getattr(self, name))
        if self.max_running != "auto":
            check_whole("max_running", self.max_running, ', or "auto"')
        check_whole("max_running_per_process", self.max_running_per_process)
        check_scope_limits("max_running_per_scope", self.max_running_per_scope, MOST_SCOPE)
        if self.monitor not in MONITORS:
            refuse("monitor", f"must be one of {', '.join(MONITORS)}")
        check_function("identify", self.identify, "an environ")
        for name in HOOKS:
            check_function(name, getattr(self, name), "a JobStatus")
        check_methods("launcher", self.launcher, ("check", "launch"))
        self._check_wire()
        if fault := find_fault(self.forward_environ):
            refuse("forward_environ", fault)

    def _check_storage(self) -> None:
        is_url = isinstance(self.database, str) or hasattr(self.database, "get_backend_name")
        is_engine = hasattr(self.database, "connect") and hasattr(self.database, "dialect")
        if not is_url and not is_engine and (self.database is not None or self.cache is None):
            refuse("database", "must be an SQLAlchemy URL or Engine, or None with cache= set")
        if self.key is not None:
            check_keys(self.key, "key")
        pattern, allowed = r"[A-Za-z_][A-Za-z0-9_]{0,39}", "a name of 1-40 letters, digits and _"
        check_pattern("table_name", self.table_name, pattern, allowed)

    def _check_wire(self) -> None:
        """Check the options that go into the head of a self-request: one line each, and well under 2 kB together."""
        if not is_header_value(self.user_agent) or not 0 < len(self.user_agent) <= 200:
            refuse("user_agent", "must be 1-200 printable ASCII characters")
        check_with("ca_file", self.ca_file, check_ca_file)
        check_with("connect", self.connect, parse_connect)
        check_with("site_url", self.site_url, parse_site_url)
        check_header_names("forward_headers", self.forward_headers)
        check_own_headers("connect_headers", self.connect_headers)

    @property
    def request_limit(self) -> int:
        """Bytes of the largest request; 0: no limit."""
        return self.max_request if self.database is not None else min(self.max_request or MOST_CACHED, MOST_CACHED)

    @property
    def is_inline(self) -> bool:
        """Does the launcher run jobs by itself, right here? Then no thread of ours has anything to do."""
        return bool(getattr(self.launcher, "is_inline", False))

    @property
    def has_keeper(self) -> bool:
        """Does a thread of this process look after the jobs?"""
        return self.keeper and not self.is_inline

    @cached_property
    def address(self) -> Address | None:
        """Address in ``connect=``, parsed. A unix socket has no name of its own for the Host header."""
        address = parse_connect(self.connect) if self.connect is not None else None
        return replace(address, site=self.site.authority) if address and address.unix and self.site else address

    @cached_property
    def site(self) -> SiteUrl | None:
        """URL in ``site_url=``, parsed."""
        return parse_site_url(self.site_url) if self.site_url is not None else None

    @cached_property
    def forward_keys(self) -> tuple[str, ...]:
        """The environ keys of the headers that a job of a user gets."""
        names = ("Cookie", "Authorization", *self.forward_headers)
        return tuple(dict.fromkeys("HTTP_" + name.upper().replace("-", "_") for name in names))


def make_config(options: Mapping[str, Any]) -> Config:
    """A Config of keyword options. Raises ConfigError for a name that is no option."""
    names = [each.name for each in dataclasses.fields(Config)]
    for name in options:
        if name not in names:
            refuse(name, f"is no option of BackJob: {suggest(name, names)}")
    return Config(**options)
