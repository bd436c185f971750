"""Protocol of self-requests: header names, outcomes with their proofs, and the tokens of probes and checks.

Knows no socket and no database. The caller gives a clock that all processes of a deployment share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum

from backjob._socket import Answer
from backjob.keyring import PROBE, Keyring, Token, new_nonce

TOKEN_HEADER = "Backjob-Token"  # noqa: S105 - its name, no secret
PROOF_HEADER = "Backjob-Proof"

Clock = Callable[[], datetime]
"""Function that returns the time, as an aware datetime, and raises nothing."""
LIFETIME = 60.0
"""Seconds for which a token is valid."""
_CLOCK_SKEW = 5.0
"""Seconds by which the clock of the process that made a token may be ahead."""
REMEMBERED = LIFETIME + _CLOCK_SKEW
"""Seconds for which a used token is stored: that long it is valid if its maker's clock is ahead."""


class WireOutcome(Enum):
    """Outcome of a self-request: the text that its proof is made of, and the status line of the answer.

    Processes of other releases know the same texts: none may change.
    """

    ACCEPTED = "monitor", "202 Accepted"
    """This process launches the job."""
    HERE = "here", "200 OK"
    """BackJob answers at this address and path."""
    STALE_PROBE = "here", "403 Forbidden"
    """The same, to a probe that is too old or was sent before."""
    STALE_CHECK = "stale", "403 Forbidden"
    """A check that is too old, or was sent before."""
    ENDED = "ended", "200 OK"
    """The attempt has ended, and its outcome is in the record."""
    FORKED = "forked", "409 Conflict"
    """A child of a fork returned from the app: the parent runs the job."""
    FULL = "full", "409 Conflict"
    """No slot for jobs is free."""
    REFUSED = "refused", "409 Conflict"
    """The job is not waiting any more, or can't run."""
    OTHER_VERSION = "version", "409 Conflict"
    """Only a process with another ``app_version`` runs the job."""
    UNKNOWN = "unknown", "410 Gone"
    """No record of this application has this id, attempt and sealed request."""
    UNAVAILABLE = "away", "503 Service Unavailable"
    """The store can't be used."""

    def __init__(self, text: str, status: str) -> None:
        self.text = text
        self.status = status

    def is_proven_by(self, answer: Answer, token: Token) -> bool:
        """Return whether only BackJob can have given this answer to the request with this token."""
        return answer.status == int(self.status[:3]) and token.prove(self.text).encode() in answer.raw


def is_here(answer: Answer, token: Token, app: str) -> bool:
    """Return whether this very app proved that it answers, also to a probe that came too late."""
    return answer.status in (200, 403) and token.prove(name_app_here(app)).encode() in answer.raw


def name_app_here(app: str) -> str:
    """Return the text that proves that this very app answers a probe. "": any app with the key."""
    return f"{WireOutcome.HERE.text} {app}".rstrip()


def is_taken(answer: Answer, token: Token) -> bool:
    """Return whether BackJob answered a monitor's request: it launches the job now, or has done so before.

    A proxy may send a request twice.
    """
    return any(outcome.is_proven_by(answer, token) for outcome in (WireOutcome.ACCEPTED, WireOutcome.REFUSED))


def host_time() -> datetime:
    """Return the time of this host."""
    return datetime.now(timezone.utc)


class ShortTokens:
    """Tokens of probes and checks. No record ends them, so each is valid for a minute, and once in each process."""

    def __init__(self, keyring: Keyring, now: Clock = host_time) -> None:
        self._keyring = keyring
        self._now = now
        self._lock = threading.Lock()
        self._taken: dict[str, float] = {}
        """Nonces of the last ``REMEMBERED`` seconds, with their arrival in ``time.monotonic()``."""

    def sign(self, kind: str, job_id: int, attempt: int) -> Token:
        """Make a token. Its time is part of the nonce, which older releases read as random."""
        return self._keyring.sign(kind, job_id, attempt, b"", f"{int(self._now().timestamp())}:{new_nonce()}")

    def take(self, token: Token) -> bool:
        """Return whether this token is valid: fresh, and not used before in this process.

        A probe without a time is valid: it comes from an older release, which may run during a deploy.
        """
        made_at, has_time, _ = token.nonce.partition(":")
        if not has_time:
            return token.kind == PROBE
        if not made_at.isascii() or not made_at.isdigit():
            return False
        if not -_CLOCK_SKEW <= self._now().timestamp() - int(made_at) <= LIFETIME:
            return False
        with self._lock:
            now = time.monotonic()
            while self._taken and next(iter(self._taken.values())) < now - REMEMBERED:
                del self._taken[next(iter(self._taken))]
            is_new = token.nonce not in self._taken
            self._taken.setdefault(token.nonce, now)
        return is_new
