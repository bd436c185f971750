"""What an exchange with the own address that did not go as it should means, and what setting mends it.

Knows answers and addresses; sends nothing and decides nothing about a job.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ._socket import Answer
from .address import Address
from .errors import LaunchError

_REMEDIES = {
    401: "a password is asked for there: set connect_headers={'Authorization': …}, or let the app's own address pass",
    403: "access is refused there: let the app's own address pass, or give all processes the same key",
    410: "the job is not known there: set connect= to the app's own address, or give both one database and table_name",
    413: "the job's body is too large for it: raise its limit (nginx: client_max_body_size)",
    414: "the job's target is too long for it",
    431: "the request's head is too large for it: shorten user_agent or connect_headers",
}
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others a moment later."""


def explain(answer: Answer, address: Address) -> LaunchError:
    """What an answer that is not ours means, and what setting mends it."""
    if answer.status is None:
        if len(answer.raw) > Answer.LIMIT:
            return LaunchError(f"{address} answers without an end: set connect=", is_final=True)
        if not answer.raw or answer.raw.startswith(b"HTTP/1."):
            hint = "" if answer.raw or address.tls else ': does it speak TLS? Then set connect="https://…"'
            return LaunchError(f"{address} closed the connection without a whole answer{hint}")
        remedy = 'it speaks TLS: set connect="https://…"' if answer.raw[:1] == b"\x15" else "set connect="
        return LaunchError(f"{address} does not answer in HTTP: {remedy}", is_final=True)
    server = re.sub(r"[^\x20-\x7e]", "", answer.header("Server"))[:80] or "a server that does not say its name"
    status = answer.status
    if 300 <= status < 400:
        location = re.sub(r"[^\x21-\x7e]|//[^/]*@", "", answer.header("Location")).partition("?")[0][:200]
        if location.startswith("https:") and not address.tls:
            cure = "wrap what does that in BackJob, or set connect_headers={'X-Forwarded-Proto': 'https'}"
        else:
            cure = "set connect= to the address where the app itself answers"
        remedy = f"it redirects to {location or 'elsewhere'}: {cure}"
    elif status < 300:
        remedy = (
            "another program, or this app with another key or without BackJob: set connect= to the app's own address"
        )
    else:
        remedy = _REMEDIES.get(status, "set connect= to the address where the app itself answers")
    return LaunchError(f"{address} answered {status} (Server: {server}): {remedy}", is_final=status not in _PASSING)


def explain_failure(error: OSError, address: Address) -> LaunchError:
    """What an exchange that failed half-way means."""
    what = error.strerror or str(error) or type(error).__name__
    if type(error).__name__ == "SSLCertVerificationError":
        reason = getattr(error, "verify_message", what)
        return LaunchError(
            f"{address} has a certificate that can't be verified ({reason}): set ca_file=", is_final=True
        )
    return LaunchError(
        f"{address} can't be reached ({type(error).__name__}: {what}): is the server up? Else set connect="
    )


def sum_up(failures: Sequence[LaunchError]) -> LaunchError:
    """What was met at each of the addresses that were tried."""
    tried = "; ".join(str(failure) for failure in failures)
    return LaunchError(tried, is_final=all(failure.is_final for failure in failures))
