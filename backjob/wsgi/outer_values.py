"""Plain values that identify a user, from a middleware outside of BackJob: does a job have those of its user?

Compares digests of the request that starts a job with the job's self-request. Knows no jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from .outer import explain_outer_value, find_outer_values

_TEXT, _OTHER = "t", "o"


def digest_outer_values(environ: Mapping[str, Any], own_key: str, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of the plain values that identify the user of this request. Empty values are left out.

    ``own_key`` is BackJob's own environ key, ``names`` are the keys of ``forward_environ``, which go along with a job.
    """
    found = find_outer_values(environ, own_key, names)
    return {key: _digest(value) for key, value in found.items() if value}


def find_other_values(started: Mapping[str, str], arrived: Mapping[str, str]) -> dict[str, str]:
    """Return the keys whose values differ between both requests, and the explanation of each."""
    keys = [key for key in {**started, **arrived} if started.get(key) != arrived.get(key)]
    return {key: explain_outer_value(key, is_text=(started.get(key) or arrived[key])[0] == _TEXT) for key in keys}


def _digest(value: Any) -> str:
    kind = _TEXT if isinstance(value, str) else _OTHER
    return kind + hashlib.sha256(repr(value).encode("utf-8", "replace")).hexdigest()[:16]
