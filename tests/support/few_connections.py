"""A PostgreSQL role with a connection limit, and context managers that use up its connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from . import services, wait_until


def run_as_admin(url: URL, *statements: str) -> None:
    with services.engine(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


@contextlib.contextmanager
def limited_role(url: URL, limit: int) -> Iterator[URL]:
    """Yield the URL of a role that owns the database and has this connection limit."""
    role = f"{url.database}_few"
    run_as_admin(
        url,
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit}",
        f"ALTER DATABASE {url.database} OWNER TO {role}",
        f"ALTER SCHEMA public OWNER TO {role}",
    )
    yield url.set(username=role)
    run_as_admin(url, f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@contextlib.contextmanager
def use_up_connections(few: URL) -> Iterator[int]:
    """Open connections until the role's limit is reached, and keep them open. Yield their number."""
    with contextlib.ExitStack() as stack:
        taken = 0
        with contextlib.suppress(OperationalError):
            while True:
                stack.enter_context(services.engine(few).connect())
                taken += 1
        yield taken


@contextlib.contextmanager
def take_all_connections(url: URL, few: URL, limit: int) -> Iterator[None]:
    """Terminate the app's connections and keep all ``limit`` connections of the role open."""
    with contextlib.ExitStack() as stack:
        own = [0]

        def take() -> bool:
            others = f"usename = '{few.username}' AND pid NOT IN ({', '.join(map(str, own))})"
            run_as_admin(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            with contextlib.suppress(OperationalError):
                while len(own) <= limit:
                    connection = stack.enter_context(services.engine(few).connect())
                    own.append(connection.scalar(text("SELECT pg_backend_pid()")))
            return len(own) > limit

        wait_until(take)
        yield
