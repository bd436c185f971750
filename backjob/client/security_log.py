"""The logger ``backjob.security``: users who ended or restarted a job by its id, and refused tokens.

No token, cookie, credential or form value is in a record. Values that clients choose are logged as one line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from backjob.config import Config
from backjob.logs import about
from backjob.model.text import escape_controls

from .capture import find_user

log = logging.getLogger("backjob.security")

EVERY = 60.0
"""Seconds between two records about refused tokens."""
_MOST_PEERS = 20
_LONGEST = 100


def log_act(act: str, job_id: int, environ: Mapping[str, Any] | None, config: Config) -> None:
    """Log that a job was ended or started again by its id: by whom, and from where."""
    by = "outside of a request"
    if environ is not None:
        by = f"by {_name_actor(environ, config)} from {name_peer(environ)}"
    log.info("Job %d was %s %s", job_id, act, by, extra=about(job_id))


def name_peer(environ: Mapping[str, Any]) -> str:
    """Return the address of the peer, from the server's REMOTE_ADDR."""
    return escape_controls(str(environ.get("REMOTE_ADDR") or "an unknown address")[:_LONGEST])


def _name_actor(environ: Mapping[str, Any], config: Config) -> str:
    """Return the user from ``identify`` or REMOTE_USER, quoted: a name may be any text."""
    try:
        user = find_user(environ, config)
    except Exception:  # noqa: BLE001 - the act is logged even if the app's function fails
        user = None
    user = user or environ.get("REMOTE_USER")
    return ascii(str(user)[:_LONGEST]) if user else "an anonymous visitor"


class RefusedTokens:
    """Count of requests with a refused token, logged at most once a minute, with the peers' addresses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: dict[str, int] = {}
        self._next = float("-inf")

    def note(self, environ: Mapping[str, Any], *, is_stale: bool = False) -> None:
        """Count a request. The first one after a minute without any is logged at once."""
        peer = name_peer(environ) + (" (too old, or used before)" if is_stale else "")
        with self._lock:
            key = peer if peer in self._peers or len(self._peers) < _MOST_PEERS else "other addresses"
            self._peers[key] = self._peers.get(key, 0) + 1
        self.report()

    def report(self, *, is_last: bool = False) -> None:
        """Log the counted requests if the last record is a minute old. ``is_last``: log them in any case."""
        now = time.monotonic()
        with self._lock:
            if not self._peers or (now < self._next and not is_last):
                return
            peers, self._peers, self._next = self._peers, {}, now + EVERY
        counts = ", ".join(f"{number} from {peer}" for peer, number in peers.items())
        log.warning("Requests with a refused token: %s", counts)
