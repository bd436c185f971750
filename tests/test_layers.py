"""The rooms of the package: imports point one way, each third party has one home, and every module says what it is."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import backjob

PACKAGE = Path(__file__).parent.parent / "backjob"

ORDER = (
    "interrupts",
    *("messages", "errors", "children", "ending", "logs", "ranges", "jitter", "files", "forks", "native"),
    *("keeper_thread", "bounded_calls", "memcached_clients", "cache_backends", "cells", "idle_connections"),
    *("process", "attempts", "transitions", "job", "events", "decisions", "rows", "keyring", "app_id"),
    *("address", "discovery", "_uwsgi", "_socket", "proofs", "connection_failures", "diagnosis", "forms", "headers"),
    *("redirects", "corrections"),
    *("outer", "outer_values"),
    *("option_checks", "site_url", "config", "settings", "backlog"),
    *("schema", "faults", "lost_answers", "sqlite_file", "postgresql", "engines", "dialects", "tables", "transactions"),
    *("engine", "wal", "clock", "statements", "store", "vouching"),
    *("process_table", "sql_reads", "sql_pruning", "write_check", "sqlstore"),
    *("cache", "changes", "cache_index", "cache_list", "cache_reads", "cache_processes", "cache_store"),
    *("content_coding", "terminal", "tail", "output", "error_pages"),
    *("mounts", "request_size", "request", "job_environ", "response", "wire"),
    *("short_tokens", "path_proofs", "own_address", "launcher", "monitor"),
    *("server_facts", "stopping", "shutdown", "limits", "waiting", "dispatcher", "outcome", "duties"),
    *("grace_period", "pruning", "keeper"),
    "backend",
    *("arguments", "no_job"),
    *("security_log", "existing_jobs", "retrying", "jobs", "session"),
    *("findings", "exposure", "second_visit", "site_check", "check", "notices"),
    "assembly",
    *("signs", "cookies", "left_out", "judgement"),
    *("followers", "worker", "endpoint", "middleware", "__init__"),
)
"""A module imports only those before it. A new module gets its place here."""

HOMES = {
    "sqlalchemy": {
        *("schema", "faults", "postgresql", "engines", "dialects", "tables", "transactions", "engine", "clock"),
        *("idle_connections", "statements", "process_table", "sql_reads", "sqlstore", "write_check"),
    },
    "cryptography": {"keyring"},
    "webob": {"request", "output", "jobs"},
    "random": {"jitter"},
    "socket": {"_socket", "discovery"},
    "ssl": {"_socket"},
}
"""Where what is not ours is at home. What is not of the standard library has a home or does not come in."""

FOR_ALL = {"interrupts"}
"""Modules that the package and a shell use, and that import neither."""

SHELLS: dict[str, set[str]] = {
    "integrations/__init__": set(),
    # start() takes a webob.Request, which is the one way to hand a body on as it came, such as JSON.
    "integrations/again": {"webob"},
    "integrations/alembic": set(),
    "integrations/pyramid": {"pyramid"},
    "integrations/bottle": {"bottle"},
    "integrations/flask": {"flask", "werkzeug"},
    "integrations/django": {"django"},
    "integrations/django_csrf": {"django"},
    "integrations/django_cache": {"django"},
    "integrations/django_inline": {"django"},
    "integrations/django_session": {"django"},
    "integrations/django_transactions": {"django"},
    "__main__": set(),
    "cli/__init__": set(),
    "cli/group": {"click"},
    "cli/commands": {"click"},
    "cli/where": set(),
    "cli/pairs": {"click"},
    "cli/screen": {"rich"},
    "cli/watching": {"rich"},
    "cli/demo": set(),
    "testing": set(),
    "pytest_plugin": {"pytest"},
}
"""What stands around the package, and what is at home in it. Of the package's own it imports the public names alone, as
everybody's code does, and other shells."""

MOST_LINES = 300


def find_breaches(package: Path) -> list[str]:
    """What in this tree goes against the rules, a line each."""
    return [
        f"{room}: {breach}"
        for room, path in sorted(_rooms(package).items())
        for breach in _breaches(room, path, package.name)
    ]


def _rooms(package: Path) -> dict[str, Path]:
    return {path.relative_to(package).with_suffix("").as_posix(): path for path in package.rglob("*.py")}


def _breaches(room: str, path: Path, package: str) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = len(text.splitlines())
    if room not in ORDER and room not in SHELLS:
        yield "has no place in the order"
        return
    if lines > MOST_LINES:
        yield f"has {lines} lines, {MOST_LINES} at most"
    if not ast.get_docstring(tree):
        yield "has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inner = [each for each in ast.walk(node) if isinstance(each, (ast.Import, ast.ImportFrom))]
            if inner:
                yield f"imports inside of a function, line {inner[0].lineno}"
        if isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
            yield f"imports by a call, line {node.lineno}"
        if room in SHELLS:
            yield from _shell_breaches(room, node, package)
            continue
        for module, is_own in _imports(node, package):
            yield from _own_breaches(room, module) if is_own else _foreign_breaches(room, module)


def _shell_breaches(room: str, node: ast.AST, package: str) -> Iterator[str]:
    """What a shell imports that is neither public, nor another shell, nor allowed to it."""
    for module, names in _absolute_imports(room, node, package):
        top, _, rest = module.partition(".")
        if top != package:
            if top not in sys.stdlib_module_names and top not in SHELLS[room]:
                yield f"imports {top}, which is not at home there"
        elif rest:
            if not {rest.replace(".", "/"), f"{rest.replace('.', '/')}/__init__"} & (SHELLS.keys() | FOR_ALL):
                yield f"imports {rest}, which is not public"
        else:
            yield from (f"imports {name}, which is not public" for name in names if name not in _public_names())


def _absolute_imports(room: str, node: ast.AST, package: str) -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, []) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        # With one dot it is the room's own folder, with each further one the folder above.
        folders = [package, *room.split("/")[:-1]]
        parts = folders[: len(folders) - node.level + 1] if node.level else []
        module = ".".join([*parts, *([node.module] if node.module else [])])
        yield module, [alias.name for alias in node.names]


def _public_names() -> set[str]:
    return set(backjob.__all__)


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """The modules that a statement imports, and whether they are the package's own; TYPE_CHECKING is no excuse."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _of_absolute(alias.name, [], package)
    elif isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names]
        if not node.level:
            yield from _of_absolute(node.module or "", names, package)
        elif node.module:
            yield node.module.partition(".")[0], True
        else:
            yield from ((name, True) for name in names)


def _of_absolute(module: str, names: list[str], package: str) -> Iterator[tuple[str, bool]]:
    top, _, rest = module.partition(".")
    if top != package:
        yield top, False
    elif rest:
        yield rest.partition(".")[0], True
    else:
        yield from ((name if name in ORDER else "__init__", True) for name in names or ["__init__"])


def _own_breaches(importer: str, imported: str) -> Iterator[str]:
    if imported not in ORDER:
        yield f"imports {imported}, which has no place in the order"
    elif ORDER.index(imported) >= ORDER.index(importer):
        yield f"imports {imported}, which is not before it"


def _foreign_breaches(importer: str, imported: str) -> Iterator[str]:
    if imported in HOMES:
        if importer not in HOMES[imported]:
            yield f"imports {imported}, which is not at home there"
    elif imported not in sys.stdlib_module_names:
        yield f"imports {imported}, which is at home nowhere"


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_the_package_keeps_to_its_layers() -> None:
    assert find_breaches(PACKAGE) == []


def test_the_order_is_that_of_the_package() -> None:
    assert set(_rooms(PACKAGE)) - SHELLS.keys() == set(ORDER)
    for third_party, homes in HOMES.items():
        for home in homes:
            assert third_party in (PACKAGE / f"{home}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("job", "from .store import Store", "imports store, which is not before it"),
        ("job", "from . import errors, worker", "imports worker, which is not before it"),
        ("job", "from .job import Job", "imports job, which is not before it"),
        ("job", "from backjob.store import Store", "imports store, which is not before it"),
        ("job", "from backjob import store", "imports store, which is not before it"),
        ("job", "import backjob.store", "imports store, which is not before it"),
        ("job", "from backjob import BackJob", "imports __init__, which is not before it"),
        ("job", "import backjob", "imports __init__, which is not before it"),
        ("job", "try:\n    from .store import Store\nexcept ImportError:\n    pass", "imports store"),
        ("job", "if TYPE_CHECKING:\n    from .store import Store", "imports store, which is not before it"),
        ("job", "class A:\n    from .store import Store", "imports store, which is not before it"),
        ("store", "def f():\n    from .job import Job", "imports inside of a function, line 4"),
        ("store", "class A:\n    async def f(self):\n        import json", "imports inside of a function"),
        ("job", "import importlib\nimportlib.import_module('backjob.store')", "imports by a call, line 4"),
        ("job", "__import__('backjob.store')", "imports by a call"),
        ("job", "from .manager import Manager", "imports manager, which has no place in the order"),
        ("manager", "", "has no place in the order"),
        ("job", "import sqlalchemy.orm", "imports sqlalchemy, which is not at home there"),
        ("config", "from cryptography.fernet import Fernet", "imports cryptography, which is not at home there"),
        ("address", "import ssl", "imports ssl, which is not at home there"),
        ("worker", "from socket import socket", "imports socket, which is not at home there"),
        ("worker", "import webob", "imports webob, which is not at home there"),
        ("worker", "import requests", "imports requests, which is at home nowhere"),
        ("job", "\n" * 300, "has 303 lines, 300 at most"),
        ("testing", "from . import jobs", "imports jobs, which is not public"),
        ("testing", "from .jobs import Jobs", "imports jobs, which is not public"),
        ("testing", "import backjob.jobs", "imports jobs, which is not public"),
        ("testing", "from backjob.jobs import Jobs", "imports jobs, which is not public"),
        ("testing", "import pytest", "imports pytest, which is not at home there"),
        ("integrations/flask", "from .. import Backend", "imports Backend, which is not public"),
        ("integrations/flask", "from ..session import RequestJobs", "imports session, which is not public"),
        ("integrations/flask", "import bottle", "imports bottle, which is not at home there"),
        ("integrations/manager", "", "has no place in the order"),
    ],
)
def test_a_breach_is_found(module: str, source: str, breach: str, tmp_path: Path) -> None:
    package = tmp_path / "backjob"
    (package / module).parent.mkdir(parents=True)
    (package / "errors.py").write_text('"""Errors."""\n')
    assert find_breaches(package) == []
    (package / f"{module}.py").write_text(f'"""What it is."""\n\n{source}\n')
    (found,) = find_breaches(package)
    assert found.startswith(f"{module}: {breach}")


def test_a_missing_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import json\n")
    assert find_breaches(tmp_path) == ["job: has no docstring"]


def test_what_is_allowed_is_no_breach(tmp_path: Path) -> None:
    package = tmp_path / "backjob"
    package.mkdir()
    (package / "sqlstore.py").write_text(
        '"""Keeps jobs."""\nimport os.path\nfrom sqlalchemy import Row\nfrom . import schema\nfrom .job import Job\n'
    )
    (package / "__init__.py").write_text('"""Public names."""\nfrom .middleware import BackJob\n')
    (package / "integrations").mkdir()
    (package / "integrations" / "flask.py").write_text(
        '"""Flask."""\nimport flask\nfrom .. import Jobs\nfrom backjob import Status\nfrom ..testing import Inline\n'
    )
    assert find_breaches(package) == []
