"""Alembic and Flask-Migrate: a hook that excludes backjob's tables from autogenerate.

Alembic proposes to drop each table that it finds in the database and not in the models. Knows Alembic's hook
``include_object`` and the names of backjob's tables; it imports nothing of Alembic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backjob import Config

IncludeObject = Callable[[Any, "str | None", str, bool, Any], bool]
"""Signature of Alembic's hook: object, name, type, reflected, compare_to."""

_SUFFIXES = ("", "_process")


def exclude_tables(table_name: str = Config.table_name, include_object: IncludeObject | None = None) -> IncludeObject:
    """Return a hook ``include_object`` that excludes backjob's tables, for ``context.configure()`` in env.py.

    ``table_name`` is the option of BackJob. ``include_object`` is a hook of your own: it is called for everything else.
    """
    names = {f"{table_name}{suffix}" for suffix in _SUFFIXES}

    def include(item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        table = item if kind == "table" else getattr(item, "table", None)
        if getattr(table, "name", None) in names:
            return False
        return include_object is None or include_object(item, name, kind, reflected, compare_to)

    return include


include_object = exclude_tables()
"""Hook for the default ``table_name``."""
