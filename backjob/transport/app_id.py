"""The app_id of a row: whose job it is, in clear, so that queries and sweeps can go by it.

It depends on no key, because the lists of keys of two processes differ while a key is changed. Knows no job.
"""

from __future__ import annotations

import hashlib

from backjob.keyring import Keyring

_APP, _PLACE = "w", "c"
_KEYED_APP = "a"
"""First letter in rows of earlier releases: the rest is a digest made with the newest key of that time."""


def name_app(app: str) -> str:
    """Return the app_id of jobs that only this app runs."""
    return _name(_APP, app)


def name_place(origin: str) -> str:
    """Return the app_id of jobs that any app at this address (of ``connect=``) runs."""
    return _name(_PLACE, origin)


class OwnIds:
    """Ids of the rows that belong to the app of this name, or to no other one."""

    def __init__(self, keyring: Keyring, app: str) -> None:
        self._ids = {name_app(app), *(_KEYED_APP + digest[:15] for digest in keyring.digest(f"home {app}"))}

    def __contains__(self, app_id: str) -> bool:
        return not app_id.startswith((_APP, _KEYED_APP)) or app_id in self._ids


def _name(kind: str, home: str) -> str:
    return kind + hashlib.sha256(f"home {home}".encode()).hexdigest()[:15]
