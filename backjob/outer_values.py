"""Plain values that a middleware outside of BackJob puts into the environ, and that jobs may lack.

Compares the requests that start jobs with the self-requests that run them, within one process. Keeps hashes and no
values. Knows no jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .outer import explain_outer_value, find_outer_values, is_name_of_identity

_MOST_KEYS = 200


class OuterValues:
    """The values that were seen under each key: in the last starting request, and in up to two self-requests.

    A key counts as lost if no self-request has it, or if two self-requests have the same other value. A value that
    differs from request to request, such as a request's id, is not lost. A key that names an identity counts as lost
    unless a self-request had the same value, even before the first self-request.
    """

    def __init__(self, own_key: str, names: tuple[str, ...]) -> None:
        self._own_key = own_key
        self._names = names
        self._started: dict[str, tuple[int, str]] = {}
        self._arrived: dict[str, list[int]] = {}
        self._has_arrived = False

    def note_start(self, environ: Mapping[str, Any]) -> dict[str, str]:
        """Note a request that starts a job. Return the lost keys, and the explanation of each."""
        values = {key: value for key, value in self._find(environ).items() if value}
        started = {key: (hash(value), explain_outer_value(key, value)) for key, value in values.items()}
        for key in _select_known(started, self._started):
            self._started[key] = started[key]
        return self._select_lost(started)

    def note_arrival(self, environ: Mapping[str, Any]) -> dict[str, str]:
        """Note the self-request of a job. Return what note_start() returns, for the starting requests so far."""
        self._has_arrived = True
        values = self._find(environ)
        for key in _select_known(values, self._arrived):
            hashes = self._arrived.setdefault(key, [])
            if len(set(hashes)) < 2:
                hashes[1:] = [hash(values[key])]
        return self._select_lost(dict(self._started))

    def _find(self, environ: Mapping[str, Any]) -> dict[str, Any]:
        return find_outer_values(environ, self._own_key, self._names)

    def _select_lost(self, started: Mapping[str, tuple[int, str]]) -> dict[str, str]:
        return {key: explained for key, (value, explained) in started.items() if self._is_lost(key, value)}

    def _is_lost(self, key: str, value: int) -> bool:
        hashes = self._arrived.get(key, [])
        if value in hashes:
            return False
        is_missing = self._has_arrived and not hashes
        is_always_another = len(hashes) == 2 and hashes[0] == hashes[1]
        return is_missing or is_always_another or is_name_of_identity(key)


def _select_known(keys: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return the keys that are known, and new ones as long as there are not too many."""
    return [key for key in keys if key in known or len(known) < _MOST_KEYS]
