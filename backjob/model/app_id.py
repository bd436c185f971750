"""The app_id of a row: the application that it belongs to, in clear, for queries.

It depends on no key, because the lists of keys of two processes differ while a key is changed. Knows no store.
"""

from __future__ import annotations

import hashlib

from .conditions import AnyOf, Arg, Equal, Not, StartsWith

NAMED = "w"
"""First letter of the id of an application.

A row with another app_id was started with ``connect=``, or by an earlier release. It belongs to no application yet: the
one that receives its launch adopts it.
"""

OF_APP = AnyOf((Equal("app_id", Arg("app_id")), Not(StartsWith("app_id", NAMED))))
"""Condition that the row belongs to this application, or to no application yet."""


def name_app(app: str) -> str:
    """Return the app_id of this application's rows."""
    return NAMED + hashlib.sha256(f"home {app}".encode()).hexdigest()[:15]


def may_have(app_id: str, row_app_id: str) -> bool:
    """Return whether this application may run the job of a row: one of its own, or one of no application yet."""
    return row_app_id == app_id or not row_app_id.startswith(NAMED)
