"""The app_id of a row: whose job it is, in clear, so that queries can go by it.

It depends on no key, because the lists of keys of two processes differ while a key is changed. Knows no store.
"""

from __future__ import annotations

import hashlib

from .conditions import AnyOf, Arg, Equal, Not, StartsWith

NAMED = "w"
"""First letter of the id of an application. A row whose app_id begins otherwise is nobody's: it was started with
``connect=``, or by an earlier release, and belongs to the application that receives its launch."""

OF_APP = AnyOf((Equal("app_id", Arg("app_id")), Not(StartsWith("app_id", NAMED))))
"""The row is one of this application, or of none."""


def name_app(app: str) -> str:
    """Return the app_id of this application's rows."""
    return NAMED + hashlib.sha256(f"home {app}".encode()).hexdigest()[:15]


def may_have(app_id: str, row_app_id: str) -> bool:
    """Return whether this application may run the job of a row: one of its own, or one that is nobody's yet."""
    return row_app_id == app_id or not row_app_id.startswith(NAMED)
