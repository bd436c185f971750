"""The layers of the package: imports point one way, each third party has one home, every module has a docstring."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

import backjob

PACKAGE = ROOT / "backjob"

LAYERS = (
    *("runtime", "messages", "errors", "logs", "model", "_uwsgi", "_socket", "wsgi"),
    *("keyring", "validation", "settings", "config", "storage", "transport", "scheduling"),
    *("client", "checks", "worker", "application", "endpoint", "middleware", "__init__"),
)
"""Packages and modules of the top level. Each imports only from itself and from those before it."""

AROUND = ("integrations", "cli", "__main__", "testing", "pytest_plugin")
"""Packages and modules around the others. They import public names and each other."""

SHARED = {"runtime.interrupts", "settings", "wsgi.names", "model.text"}
"""Modules that those around may import as well."""

HOMES: dict[str, tuple[str, ...]] = {
    "sqlalchemy": ("storage.sql",),
    "cryptography": ("keyring",),
    # start() takes a webob.Request.
    "webob": ("wsgi.output", "client.capture", "client.jobs", "integrations.replay"),
    "random": ("runtime.backoff",),
    "socket": ("_socket", "transport.discovery"),
    "ssl": ("_socket",),
    "pyramid": ("integrations.pyramid",),
    "bottle": ("integrations.bottle",),
    "flask": ("integrations.flask",),
    "werkzeug": ("integrations.flask",),
    "django": tuple(
        f"integrations.django{each}"
        for each in (
            "",
            *map(
                "_{}".format,
                (
                    "csrf",
                    "cache",
                    "inline",
                    "session",
                    "transactions",
                ),
            ),
        )
    ),
    "click": ("cli",),
    "rich": ("cli",),
    "pytest": ("pytest_plugin",),
}
"""Packages and modules that may import a third party, or a module of the standard library that needs care."""

FREE_FOR_THOSE_AROUND = {"random", "socket", "ssl"}
"""Modules of the standard library whose home is a rule for the layers only."""

MOST_LINES = 300


def find_breaches(package: Path) -> list[str]:
    """Return what is against the rules in this tree, a line each."""
    modules = {_name_module(path, package): path for path in package.rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    imports = {name: list(_find_imports(name, tree, modules)) for name, tree in trees.items()}
    breaches = [
        f"{name}: {breach}"
        for name, tree in sorted(trees.items())
        for breach in (*_check_module(modules[name], tree), *_check_imports(name, imports[name], modules))
    ]
    return [*breaches, *_find_cycle(imports, modules)]


def _name_module(path: Path, package: Path) -> str:
    """Return the dotted name within the package. A package's own module has the package's name."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _check_module(path: Path, tree: ast.Module) -> Iterator[str]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
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


def _find_imports(importer: str, tree: ast.Module, modules: dict[str, Path]) -> Iterator[tuple[str, bool, str]]:
    """Yield each imported module, whether it is the package's own, and the imported name. TYPE_CHECKING counts too."""
    is_package = modules[importer].name == "__init__.py"
    folder = importer.split(".") if is_package else importer.split(".")[:-1]
    folder = [] if importer == "__init__" else folder
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _name_imported(alias.name.split("."), [], modules)
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                module = ["backjob", *folder[: len(folder) - node.level + 1], *module]
            yield from _name_imported(module, [alias.name for alias in node.names], modules)


def _name_imported(module: list[str], names: list[str], modules: dict[str, Path]) -> Iterator[tuple[str, bool, str]]:
    if module[0] != "backjob":
        yield module[0], False, ""
        return
    own = ".".join(module[1:])
    for name in names or [""]:
        inner = f"{own}.{name}" if own else name
        if inner in modules or (not own and name in (*LAYERS, *AROUND)):
            yield inner, True, ""
        else:
            yield own or "__init__", True, name


def _check_imports(importer: str, imports: list[tuple[str, bool, str]], modules: dict[str, Path]) -> Iterator[str]:
    layer = importer.partition(".")[0]
    if layer not in LAYERS and layer not in AROUND:
        yield "has no place in the layers"
        return
    for imported, is_own, name in imports:
        if not is_own:
            yield from _check_third_party(importer, imported, layer in AROUND)
        elif layer in AROUND:
            yield from _check_import_around(imported, name)
        else:
            yield from _check_layer(layer, imported)


def _check_third_party(importer: str, imported: str, is_around: bool) -> Iterator[str]:
    if imported in HOMES and not (is_around and imported in FREE_FOR_THOSE_AROUND):
        if not any(importer == home or importer.startswith(f"{home}.") for home in HOMES[imported]):
            yield f"imports {imported}, which has its home elsewhere"
    elif imported not in sys.stdlib_module_names:
        yield f"imports {imported}, which has no home"


def _check_import_around(imported: str, name: str) -> Iterator[str]:
    if imported.partition(".")[0] in AROUND or imported in SHARED:
        return
    if imported != "__init__":
        yield f"imports {imported}, which is not public"
    elif name and name not in backjob.__all__:
        yield f"imports {name}, which is not public"


def _check_layer(layer: str, imported: str) -> Iterator[str]:
    target = imported.partition(".")[0]
    if target not in LAYERS:
        yield f"imports {imported}, which has no place in the layers"
    elif LAYERS.index(target) > LAYERS.index(layer):
        yield f"imports {imported}, which is in a higher layer"


def _find_cycle(imports: dict[str, list[tuple[str, bool, str]]], modules: dict[str, Path]) -> list[str]:
    graph = {
        name: {imported for imported, is_own, _ in found if is_own and imported in modules}
        for name, found in imports.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"cycle: {' -> '.join(reversed(error.args[1]))}"]
    return []


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_the_package_keeps_to_its_layers() -> None:
    assert find_breaches(PACKAGE) == []


def test_the_layers_are_those_of_the_package() -> None:
    found = {path.stem if path.suffix else path.name for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert found - {"__pycache__"} == {*LAYERS, *AROUND}
    for third_party, homes in HOMES.items():
        for home in homes:
            path = PACKAGE / home.replace(".", "/")
            texts = [
                each.read_text(encoding="utf-8")
                for each in (*path.rglob("*.py"), path.with_suffix(".py"))
                if each.exists()
            ]
            assert any(third_party in text for text in texts), home


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("model/job", "from backjob.storage.store import Store", "imports storage.store, which is in a higher layer"),
        ("model/job", "from ..worker import outcome", "imports worker, which is in a higher layer"),
        ("model/job", "from backjob import worker", "imports worker, which is in a higher layer"),
        ("model/job", "import backjob.storage.store", "imports storage.store, which is in a higher layer"),
        ("model/job", "from backjob import BackJob", "imports __init__, which is in a higher layer"),
        ("model/job", "import backjob", "imports __init__, which is in a higher layer"),
        ("model/job", "try:\n    from ..storage import Store\nexcept ImportError:\n    pass", "imports storage"),
        ("model/job", "if TYPE_CHECKING:\n    from ..storage import Store", "imports storage, which is in a higher"),
        ("model/job", "class A:\n    from ..storage import Store", "imports storage, which is in a higher layer"),
        ("model/job", "def f():\n    from .text import cut_text", "imports inside of a function, line 4"),
        ("model/job", "class A:\n    async def f(self):\n        import json", "imports inside of a function"),
        ("model/job", "import importlib\nimportlib.import_module('backjob.storage')", "imports by a call, line 4"),
        ("model/job", "__import__('backjob.storage.store')", "imports by a call"),
        ("model/job", "from ..manager import Manager", "imports manager, which has no place in the layers"),
        ("manager", "", "has no place in the layers"),
        ("managers/one", "", "has no place in the layers"),
        ("model/job", "import sqlalchemy.orm", "imports sqlalchemy, which has its home elsewhere"),
        ("config", "from cryptography.fernet import Fernet", "imports cryptography, which has its home elsewhere"),
        ("worker/outcome", "from socket import socket", "imports socket, which has its home elsewhere"),
        ("worker/outcome", "import webob", "imports webob, which has its home elsewhere"),
        ("worker/outcome", "import requests", "imports requests, which has no home"),
        ("model/job", "\n" * 300, "has 303 lines, 300 at most"),
        ("testing", "from .client.jobs import Jobs", "imports client.jobs, which is not public"),
        ("testing", "import backjob.client.jobs", "imports client.jobs, which is not public"),
        ("testing", "import pytest", "imports pytest, which has its home elsewhere"),
        ("integrations/flask", "from .. import Backend", "imports Backend, which is not public"),
        ("integrations/flask", "from ..client.jobs import Jobs", "imports client.jobs, which is not public"),
        ("integrations/flask", "import bottle", "imports bottle, which has its home elsewhere"),
    ],
)
def test_a_breach_is_found(module: str, source: str, breach: str, tmp_path: Path) -> None:
    package = tmp_path / "backjob"
    (package / module).parent.mkdir(parents=True, exist_ok=True)
    (package / "errors.py").write_text('"""Errors."""\n')
    assert find_breaches(package) == []
    (package / f"{module}.py").write_text(f'"""What it is."""\n\n{source}\n')
    (found,) = find_breaches(package)
    assert found.startswith(f"{module.replace('/', '.')}: {breach}")


def test_a_cycle_within_a_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name, other in (("job", "text"), ("text", "history"), ("history", "job")):
        (tmp_path / "model" / f"{name}.py").write_text(f'"""One of three."""\nfrom .{other} import something\n')
    (found,) = find_breaches(tmp_path)
    assert found.startswith("cycle: model.")
    assert found.count("->") == 3


def test_a_missing_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "errors.py").write_text("import json\n")
    assert find_breaches(tmp_path) == ["errors: has no docstring"]


def test_what_is_allowed_is_no_breach(tmp_path: Path) -> None:
    package = tmp_path / "backjob"
    for folder in ("storage/sql", "integrations"):
        (package / folder).mkdir(parents=True)
    (package / "storage" / "sql" / "store.py").write_text(
        '"""Keeps jobs."""\nimport os.path\nimport sqlalchemy\nfrom . import schema\nfrom backjob.errors import Busy\n'
    )
    (package / "storage" / "sql" / "schema.py").write_text('"""Tables."""\n')
    (package / "__init__.py").write_text('"""Public names."""\nfrom .middleware import BackJob\n')
    (package / "integrations" / "flask.py").write_text(
        '"""Flask."""\nimport flask\nfrom .. import Jobs\nfrom backjob import Status\nfrom ..testing import Inline\n'
    )
    assert find_breaches(package) == []
