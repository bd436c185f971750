"""backjob: run any URL of a WSGI app in the background, in the web server that is already there."""

from .runtime import interrupts as interrupts  # before all others: Ctrl-C may come while they are imported

# isort: split
from .checks.report import Check, Finding
from .client.jobs import Jobs
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
from .keyring import Token
from .logs import JobFilter, JobLogHandler
from .middleware import BackJob
from .model.job import JobRequest, JobStatus, Status
from .transport.launcher import Launcher

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
    "JobRequest",
    "JobStatus",
    "Jobs",
    "KeyringError",
    "LaunchError",
    "Launcher",
    "RequestError",
    "RequestTooLarge",
    "Status",
    "StoreError",
    "Token",
    "__version__",
]
