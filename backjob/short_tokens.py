"""The tokens of probes and checks. No record ends them, so they live for a minute and work once in a process.

Knows no socket and no database: a function gives the time, which all processes of a deployment have to share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from .keyring import PROBE, Keyring, Token, new_nonce

Clock = Callable[[], datetime]
"""A function that gives the time, as an aware datetime. It raises nothing."""
LIFETIME = 60.0
"""Seconds for which a token works."""
_AHEAD = 5.0
"""Seconds that the clock of the process which made a token may be ahead."""


def host_time() -> datetime:
    """The time of this host."""
    return datetime.now(timezone.utc)


class ShortTokens:
    """Makes tokens that carry their time, and takes each of them once."""

    def __init__(self, keyring: Keyring, now: Clock = host_time) -> None:
        self._keyring = keyring
        self._now = now
        self._lock = threading.Lock()
        self._taken: dict[str, float] = {}
        """The nonces of the last minute, with the time by ``time.monotonic()`` when they came."""

    def sign(self, kind: str, job_id: int, attempt: int) -> Token:
        """Make a token. Its time is part of the nonce, where releases without times take it for chance."""
        return self._keyring.sign(kind, job_id, attempt, b"", f"{int(self._now().timestamp())}:{new_nonce()}")

    def take(self, token: Token) -> bool:
        """Return whether this token may do what it is for, which it may only once.

        A probe without a time is one of an older release, which runs beside this one during a deploy: it works.
        """
        made_at, has_time, _ = token.nonce.partition(":")
        if not has_time:
            return token.kind == PROBE
        if not -_AHEAD <= self._now().timestamp() - int(made_at) <= LIFETIME:
            return False
        with self._lock:
            now = time.monotonic()
            while self._taken and next(iter(self._taken.values())) < now - LIFETIME - _AHEAD:
                del self._taken[next(iter(self._taken))]
            is_new = token.nonce not in self._taken
            self._taken.setdefault(token.nonce, now)
        return is_new
