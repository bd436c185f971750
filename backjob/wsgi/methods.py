"""HTTP methods: all that a job may have, and the safe ones. Knows nothing else of the package."""

from __future__ import annotations

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""The methods of RFC 9110, section 9.3, without CONNECT, and of RFC 5789."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""


def is_safe_method(method: str) -> bool:
    """Return whether this method changes nothing (RFC 9110, section 9.2.1)."""
    return method in SAFE_METHODS
