"""Tokens of probes and checks: no record ends them, so each is valid for a minute, and once in each process.

Knows no socket and no database. The caller gives a clock that all processes of a deployment share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from backjob.keyring import PROBE, Keyring, Token, new_nonce

Clock = Callable[[], datetime]
"""Function that returns the time, as an aware datetime, and raises nothing."""
LIFETIME = 60.0
"""Seconds for which a token is valid."""
_AHEAD = 5.0
"""Seconds by which the clock of the process that made a token may be ahead."""
REMEMBERED = LIFETIME + _AHEAD
"""Seconds for which a used token is stored: that long it is valid if its maker's clock is ahead."""


def host_time() -> datetime:
    """Return the time of this host."""
    return datetime.now(timezone.utc)


class ShortTokens:
    """Tokens that carry their time. Each is accepted once."""

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
        if not -_AHEAD <= self._now().timestamp() - int(made_at) <= LIFETIME:
            return False
        with self._lock:
            now = time.monotonic()
            while self._taken and next(iter(self._taken.values())) < now - REMEMBERED:
                del self._taken[next(iter(self._taken))]
            is_new = token.nonce not in self._taken
            self._taken.setdefault(token.nonce, now)
        return is_new
