"""backjob: run any URL of a WSGI app in the background, in the web server that is already there."""

from . import interrupts as interrupts  # before all others: Ctrl-C may come while they are imported
from .config import Config, __version__
from .errors import (
    AddressError,
    BackJobError,
    ConfigError,
    IdentityUnknown,
    JobEnded,
    JobFailed,
    JobNotFound,
    KeyringError,
    LaunchError,
    RequestError,
    RequestTooLarge,
    StoreError,
)
from .findings import Check, Finding
from .job import JobStatus, Status
from .jobs import Jobs
from .logs import JobFilter, JobLogHandler
from .middleware import BackJob

__all__ = [
    "AddressError",
    "BackJob",
    "BackJobError",
    "Check",
    "Config",
    "ConfigError",
    "Finding",
    "IdentityUnknown",
    "JobEnded",
    "JobFailed",
    "JobFilter",
    "JobLogHandler",
    "JobNotFound",
    "JobStatus",
    "Jobs",
    "KeyringError",
    "LaunchError",
    "RequestError",
    "RequestTooLarge",
    "Status",
    "StoreError",
    "__version__",
]
