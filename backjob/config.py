"""The options of BackJob: one frozen Config, whose fields have each option's default, check and reader.

Knows what each option may be, not what it does. Opens nothing, but looks whether a named CA file exists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ._socket import check_ca_file
from .errors import ConfigError
from .model.address import Address, parse_connect
from .model.job import JobStatus
from .settings import (
    option,
    read_bool,
    read_database,
    read_headers,
    read_key,
    read_number,
    read_path_or_bool,
    read_scopes,
    read_text,
    read_words,
)
from .validation import (
    MOST,
    TIMEOUT,
    WHOLE,
    check_header_names,
    check_key,
    check_own_headers,
    check_redirects,
    check_scope_limits,
    is_database,
    is_function,
    is_launcher,
    is_timeout,
    is_whole,
    must_be,
    must_be_number,
    must_match,
    must_pass,
    suggest,
)
from .wsgi.headers import FORWARD_HEADERS
from .wsgi.names import header_key
from .wsgi.outer import find_fault
from .wsgi.redirects import RedirectOk
from .wsgi.site_url import SiteUrl, parse_site_url

try:
    __version__ = version("backjob")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

MOST_CACHED = 65536
"""Bytes of the largest request in a cache that is the only store."""
MONITORS = ("auto", "thread", "request", "leave")
HOOKS = ("on_start", "on_update", "on_end")
_DATABASE = "an SQLAlchemy URL or Engine, or None with cache= set"
_BOOL = must_be("True or False", lambda value: isinstance(value, bool))
_SHORT_NAME = must_match(r"[!-~]{1,64}", "1-64 printable ASCII characters without blanks", (None,))
_WHOLE = must_be(WHOLE, is_whole)
_HOOK = must_be("a plain function of a JobStatus", is_function)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of :class:`backjob.BackJob`. Raises ConfigError, which names the option and what is allowed."""

    database: Any = option("sqlite:///backjob.sqlite3", must_be(_DATABASE, is_database), read_database, is_secret=True)
    """SQLAlchemy URL or Engine of the database that holds the job table. It may be the app's own.
    None: no database, the ``cache`` alone."""

    cache: Any = option(None, lambda value: "", is_dotted=True, is_secret=True)
    """Configured dogpile.cache region in front of the database, or with ``database=None`` in place of it."""

    key: str | list[str] | tuple[str, ...] | None = option(None, check_key, read_key, is_secret=True)
    """Secret of 32 or more characters, or a list of secrets, newest first. None: $BACKJOB_KEY. Without that variable,
    and for an SQLite file only, a random key is stored in a file beside it."""

    table_name: str = option(
        "background_job", must_match(r"[A-Za-z_][A-Za-z0-9_]{0,39}", "a name of 1-40 letters, digits and _")
    )
    """Name of the job table."""

    create_table: bool = option(True, _BOOL, read_bool)
    """Create the job table at first use."""

    cache_prefix: str = option("backjob-", must_match(r"[\x21-\x7e]{0,64}", "up to 64 printable ASCII characters"))
    """Prefix of the keys in the cache."""

    error_timeout: float = option(120, must_be(TIMEOUT, is_timeout), read_number)
    """Seconds without a progress report after which a running job fails, at least 0.5. 0: never. Also an argument of
    start()."""

    user_agent: str = option(
        f"backjob/{__version__}", must_match(r"[!-~]([ -~\t]{0,198}[!-~])?", "1-200 printable ASCII characters")
    )
    """User-Agent of the self-requests, of anonymous jobs, and of jobs that were started outside of a request."""

    backlog_days: float = option(30, must_be_number(0, MOST), read_number)
    """Days that completed jobs are kept. 0: for ever."""

    all_backlog_days: float = option(60, must_be_number(0, MOST), read_number)
    """Days that any ended job is kept. 0: for ever."""

    connect: str | None = option(None, must_pass(parse_connect))
    """The app's own address: ``"http://127.0.0.1:8000"``, ``"https://…"`` (its certificate is verified) or
    ``"unix:/run/app.sock"``. None: found from the server of each request."""

    site_url: str | None = option(None, must_pass(parse_site_url))
    """URL at which people reach the app, such as ``"https://shop.example"`` or ``"https://shop.example/mount"``. Jobs
    that are started outside of a request get its Host, scheme, port and SCRIPT_NAME. None: those of ``connect``, and
    the SCRIPT_NAME with which the request arrives."""

    ca_file: str | None = option(None, must_pass(check_ca_file))
    """PEM file of the authority that signed the certificate at ``connect="https://…"``. None: the system's."""

    connect_headers: Mapping[str, str] = option(dict, check_own_headers, read_headers, is_secret=True)
    """Headers of every self-request, for a proxy in front of the app that asks for them, such as Basic auth. The app
    does not see them."""

    close_delay: float = option(0.2, must_be_number(0.01, 60), read_number)
    """Longest time in seconds that start() waits for the monitor's answer before it closes its socket."""

    monitor: str = option("auto", must_be(f"one of {', '.join(MONITORS)}", MONITORS.__contains__))
    """Way in which the monitor waits for the job: ``"thread"``, ``"request"``, ``"leave"`` or ``"auto"``. The last is
    leave on servers whose threads end with the request, and thread on all others."""

    lease: float = option(30, must_be_number(1, 86400), read_number)
    """Seconds after which a job is lost unless its process has renewed the lease. The process is the one that runs the
    job or is about to launch it."""

    launch_timeout: float = option(60, must_be_number(0, MOST), read_number)
    """Seconds for which a failed launch is retried before the job fails, at an address that has never worked. At one
    that has worked, a failure is an outage: the job waits for up to a day, with the reason as its status text."""

    max_running: int | str = option(
        "auto", must_be(f'{WHOLE}, or "auto"', lambda value: value == "auto" or is_whole(value)), read_number
    )
    """Limit of jobs that run at once in the whole deployment. 0: no limit. ``"auto"``: half of the requests that its
    processes can handle at once, at least 1. A process for which that number is not known counts as 4 jobs."""

    max_running_per_process: int = option(0, _WHOLE, read_number)
    """Limit of jobs that run at once in one process. 0: the number in ``max_running``, or with "auto" half of its
    slots."""

    max_running_per_scope: int | Mapping[str, int] = option(0, check_scope_limits, read_scopes, is_dotted=True)
    """Limit of jobs that run at once in each scope that is not "", or a mapping of scopes to such limits. 0: no
    limit."""

    keeper: bool = option(True, _BOOL, read_bool)
    """Start a keeper in this process: the thread that recovers lost jobs, launches due ones and deletes old ones. False
    for a process that only reads or starts jobs, such as a script. Such a process renews the leases of the jobs
    that it runs itself."""

    app_name: str | None = option(None, _SHORT_NAME)
    """Name of the app, which separates its jobs from those of other apps in the same table: 1-64 printable ASCII
    characters without blanks, the same in all its processes. None: a name made from where the app is wrapped."""

    app_version: str | None = option(None, _SHORT_NAME)
    """Version of the app's code, such as a commit: 1-64 printable ASCII characters. A job runs in processes of the
    version that recorded it while one of them is alive or was alive in the last 60 s, then in any. None: in any."""

    forward_headers: tuple[str, ...] = option(FORWARD_HEADERS, check_header_names, read_words)
    """Request headers that a job gets from the request that started it, in addition to Cookie, Authorization and Host.
    For one job, start() has ``headers=``."""

    forward_environ: tuple[str, ...] = option((), find_fault, read_words)
    """Environ keys, such as ``"OIDC_CLAIM_email"`` or ``"eppn"``, whose texts a job gets from the request that started
    it. A ``*`` at the end matches any ending. The known keys of authentication modules are included anyway."""

    redirect_ok: RedirectOk = option(False, check_redirects, read_path_or_bool, is_dotted=True)
    """Redirects that complete a job: none, all (True), those below a path (``"/ticket/"``, the mount included), or
    those for which a function of (status, location) returns True. Redirects to a login page never complete a job. Nor
    do those that only correct the job's own URL, nor 307 and 308. Also an argument of start()."""

    max_output: int = option(1048576, _WHOLE, read_number)
    """Largest number of bytes of UTF-8 that are kept of a job's output. The end is kept, from the beginning of a line
    if that loses at most an eighth."""

    max_request: int = option(1048576, _WHOLE, read_number)
    """Largest request of a job in bytes: body, URL, headers and the rest of its sealed record. For a larger one start()
    raises :class:`backjob.RequestTooLarge`, and ``background`` views answer 413. 0: no limit. With a cache as the only
    store the limit is 65536 at most, because each read of a job reads all of it."""

    identify: Callable[[Mapping[str, Any]], str | None] | None = option(
        None, must_be("a plain function of an environ", is_function), is_dotted=True
    )
    """Function of an environ that returns the name of its user, or None for an anonymous request. It is called by each
    start() of a user's job, for ``unique`` and for ``check_user()``. If it can't know the user, as in a middleware
    around the framework, it raises :class:`backjob.IdentityUnknown`, and the user of that job is not compared. None:
    ``unique`` uses REMOTE_USER, or else a digest of the Authorization and Cookie headers."""

    on_start: Callable[[JobStatus], object] | None = option(None, _HOOK, is_dotted=True)
    """Hook: called with the :class:`backjob.JobStatus` of each recorded job, by the process that started it."""

    on_update: Callable[[JobStatus], object] | None = option(None, _HOOK, is_dotted=True)
    """Hook: called with the JobStatus of a job after its progress or text was written, a few times a second at most."""

    on_end: Callable[[JobStatus], object] | None = option(None, _HOOK, is_dotted=True)
    """Hook: called once with the JobStatus of a job that has ended, by the process that wrote the outcome, in the job's
    own thread or in another one. An exception in a hook is logged and does not affect the job. A call that was lost
    with its process is not repeated."""

    launcher: Any = option(None, must_be("a launcher, with the methods check and launch", is_launcher), is_dotted=True)
    """A :class:`backjob.Launcher` that replaces the self-request. None: the self-request."""

    environ_key: str = option("backjob", must_match(r"[\x21-\x7e]+", "a name of printable ASCII characters"))
    """Key in the environ under which the app finds its jobs."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            if fault := each.metadata["check"](getattr(self, each.name)):
                raise ConfigError(f"{each.name} {fault}")
        if self.database is None and self.cache is None:
            raise ConfigError(f"database must be {_DATABASE}")

    @property
    def request_limit(self) -> int:
        """Bytes of the largest request; 0: no limit."""
        return self.max_request if self.database is not None else min(self.max_request or MOST_CACHED, MOST_CACHED)

    @property
    def is_inline(self) -> bool:
        """Does the launcher run jobs itself, in the calling thread? No thread of backjob is needed then."""
        return bool(getattr(self.launcher, "is_inline", False))

    @property
    def has_keeper(self) -> bool:
        """Does this process have a keeper?"""
        return self.keeper and not self.is_inline

    @cached_property
    def address(self) -> Address | None:
        """Address in ``connect=``, parsed. Over a unix socket the Host header is that of ``site_url``."""
        address = parse_connect(self.connect) if self.connect is not None else None
        return replace(address, site=self.site.authority) if address and address.unix and self.site else address

    @cached_property
    def site(self) -> SiteUrl | None:
        """URL in ``site_url=``, parsed."""
        return parse_site_url(self.site_url) if self.site_url is not None else None

    @cached_property
    def forward_keys(self) -> tuple[str, ...]:
        """Environ keys of the headers that a job of a user gets."""
        return tuple(dict.fromkeys(map(header_key, ("Cookie", "Authorization", *self.forward_headers))))


def make_config(options: Mapping[str, Any]) -> Config:
    """Return the Config of keyword options. Raises ConfigError for an unknown name, too."""
    names = [each.name for each in dataclasses.fields(Config)]
    for name in options:
        if name not in names:
            raise ConfigError(f"{name} is no option of BackJob: {suggest(name, names)}")
    return Config(**options)


def read_settings(settings: Mapping[str, Any], prefix: str = "backjob.") -> dict[str, Any]:
    """Return the options among settings, such as an ini file's, whose names start with the prefix.

    The option's reader converts text. Other values are kept. Raises ConfigError.
    """
    fields = {each.name: each for each in dataclasses.fields(Config)}
    options = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    return {
        name: read_text(fields[name], value) if name in fields and isinstance(value, str) else value
        for name, value in options.items()
    }
