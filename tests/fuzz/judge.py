"""The app of the fuzzers, which knows what each job may be, and a file of all that ran."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.served import Site


class Judge:
    """The app. Each job was started at a path of its own, as a user of its own: nothing else may run as that job."""

    def __init__(self) -> None:
        self.may_run = False
        self.paths: dict[int, set[str]] = {}
        self.wrong: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        user, path = environ.get("HTTP_COOKIE", ""), environ["PATH_INFO"]
        form = environ["wsgi.input"].read().decode()
        job_id = environ["backjob"].job_id
        is_right = (user, form) == (f"user={path}", f"for={path[1:]}") and path in self.paths.get(job_id, ())
        if not (self.may_run and is_right):
            self.wrong.append(f"job {job_id} ran as {path} of {user!r} with {form!r}")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]

    def check(self) -> None:
        assert not self.wrong, self.wrong


def start_job(site: Site, path: str, **options: Any) -> int:
    job_id = site.start(path, method="POST", data={"for": path[1:]}, by={"HTTP_COOKIE": f"user={path}"}, **options)
    site.job.paths.setdefault(job_id, set()).add(path)
    return job_id


class Table:
    """The job table, seen and written by somebody without the key."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, timeout=5, isolation_level=None)
        self.connection.execute("PRAGMA ignore_check_constraints = ON")
        self.connection.execute("PRAGMA synchronous = OFF")
        self.columns = [row[1] for row in self.connection.execute("PRAGMA table_info(background_job)")]

    @property
    def version(self) -> int:
        """It changes when anybody else writes."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def read(self) -> list[tuple[Any, ...]]:
        return self.connection.execute("SELECT * FROM background_job ORDER BY id").fetchall()

    def put_back(self, rows: list[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" for _ in self.columns)
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("DELETE FROM background_job")
        self.connection.executemany(f"INSERT INTO background_job VALUES ({marks})", rows)
        self.connection.execute("COMMIT")

    def write(self, job_id: int, column: str, value: Any) -> None:
        self.connection.execute(f'UPDATE background_job SET "{column}" = ? WHERE id = ?', (value, job_id))
