"""Names of HTTP and WSGI: methods, the content type of forms, the environ keys of headers. Knows nothing else."""

from __future__ import annotations

FORM = "application/x-www-form-urlencoded"
"""Content type of url-encoded forms."""
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""The methods of RFC 9110, section 9.3, without CONNECT, and of RFC 5789."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""
SENT = "backjob.sent"
"""Environ key of what an integration passes on to the job for the app's checks against forgery: a mapping that JSON
takes, with the browser's ``headers`` by their environ keys."""


def is_safe_method(method: str) -> bool:
    """Return whether this method changes nothing (RFC 9110, section 9.2.1)."""
    return method in SAFE_METHODS


def header_key(name: str) -> str:
    """Return the environ key of a header (PEP 3333)."""
    return "HTTP_" + name.upper().replace("-", "_")
