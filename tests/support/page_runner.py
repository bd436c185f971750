"""Runs the Python of one page, from top to bottom, as its reader would: ``python -m support.page_runner docs/x.md``.

A process of its own for each page, for frameworks are set up once per process. The rules are those of test_docs.py.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from webob import Request

from backjob import BackJob, Status

from .pages import ROOT, Block, read_blocks
from .served import call, make_environ, wrap

_FILE = re.compile(r"# ([\w/]+\.py)\n")
SECRET = "a-secret-for-tests-and-for-nothing-but-tests"

_THEIR_SITE = """
from backjob import BackJob
from support.page_runner import app, insist_on_https

shop = app
application = BackJob(app)
"""

WSGIApp = Callable[..., Iterable[bytes]]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """What the pages wrap that show no app of their own."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"a page"]


def insist_on_https(wrapped: WSGIApp) -> WSGIApp:
    """What stands in front of an app."""
    return wrapped


class Page:
    """The names that its blocks have made so far, and the folder in which they run."""

    def __init__(self, blocks: list[Block], folder: Path) -> None:
        self._blocks = blocks
        self._folder = folder
        self._applications: list[tuple[str, Any]] = []
        app.wsgi_app = app  # type: ignore[attr-defined]  # as Flask's has
        self._names = make_module("page").__dict__
        self._names |= {"app": app, "secret": SECRET, "BackJob": BackJob}
        self._names |= {"new_secret": SECRET, "old_secret": SECRET[::-1]}
        self._names["application"] = self._own(BackJob(app, database=f"sqlite:///{folder / 'own.sqlite3'}"))

    def run(self) -> None:
        """Write all files, then take block after block."""
        for name in ("mysite", "app"):
            (self._folder / f"{name}.py").write_text(_THEIR_SITE)
        for block in self._blocks:
            if name := read_file_name(block):
                path = self._folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                # Its lines have the numbers that they have on the page.
                path.write_text("\n" * (block.line - 1) + block.text, encoding="utf-8")
        for block in self._blocks:
            print(block.place, flush=True)
            if name := read_file_name(block):
                self._import(name)
            elif makes_application(block):
                self._make_application(block)
            else:
                self._run_in_job(block)
        # At the end: some frameworks take nothing more once they have served a request.
        for where, application in self._applications:
            reply = call(application, make_environ("/"))
            assert 200 <= reply.code < 500, f"{where}: GET / is answered {reply.status}"

    def _import(self, name: str) -> None:
        if Path(name).name.startswith("test_"):
            assert pytest.main(["-q", "-p", "no:cacheprovider", str(self._folder / name)]) == 0, f"{name} fails"
            return
        module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        self._names |= {each: value for each, value in vars(module).items() if not each.startswith("__")}
        if hasattr(module, "application"):
            self._applications.append((name, self._own(module.application)))

    def _make_application(self, block: Block) -> None:
        module = make_module(f"page_{block.line}")
        given = ("app", "secret", "BackJob") if "import " in block.text else tuple(self._names)
        module.__dict__.update({name: self._names[name] for name in given if not name.startswith("__")})
        exec(compile_block(block), module.__dict__)
        self._names |= {each: value for each, value in vars(module).items() if not each.startswith("__")}
        self._applications.append((block.place, self._own(module.application)))

    def _run_in_job(self, block: Block) -> None:
        def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            names = {"environ": environ, "job": environ["backjob"], "request": Request(environ)}
            self._names |= names
            before = dict(self._names)
            exec(compile_block(block), self._names)
            start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
            made = [value for name, value in self._names.items() if before.get(name) is not value]
            asked = [call(each, make_environ("/page", backjob=environ["backjob"])) for each in made if is_app(each)]
            return [b"\n".join(reply.status.encode() for reply in asked)]

        with tempfile.TemporaryDirectory(dir=self._folder) as folder, wrap(Path(folder), job) as site:
            ended = site.run("/job", method="POST", data={"name": "Ada"})
        may_fail = ".fail(" in block.text and ended.status is Status.FAILED
        assert ended.status is Status.COMPLETED or may_fail, f"{block.place}: {ended.status_text}"

    def _own(self, application: Any) -> Any:
        """Close it at the end."""
        if isinstance(application, BackJob):
            _made.append(application)
        return application


_made: list[BackJob] = []


@contextlib.contextmanager
def closing() -> Iterator[None]:
    """Close what the page has made."""
    try:
        yield
    finally:
        for application in _made:
            application.close()


def read_file_name(block: Block) -> str | None:
    """The file that a block says it is."""
    found = _FILE.match(block.text)
    return found[1] if found else None


def makes_application(block: Block) -> bool:
    """Is ``application`` set in it, and not only within a function?"""
    nodes: list[ast.AST] = [ast.parse(block.text)]
    for node in nodes:  # grows
        if isinstance(node, ast.Name) and node.id == "application" and isinstance(node.ctx, ast.Store):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            nodes += ast.iter_child_nodes(node)
    return False


def make_module(name: str) -> ModuleType:
    """An empty one, which is found by who asks for the module of a function or class."""
    module = ModuleType(name)
    sys.modules[name] = module
    return module


def is_app(value: object) -> bool:
    """Is it a function that a server could call?"""
    code = getattr(value, "__code__", None)
    return code is not None and code.co_varnames[: code.co_argcount] == ("environ", "start_response")


def compile_block(block: Block) -> Any:
    """Compiled, with the page's own line numbers."""
    return compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec")


def main(page: str) -> None:
    """Run a page in the working directory."""
    folder = Path.cwd()
    sys.path.insert(0, str(folder))
    blocks = [block for block in read_blocks(page) if block.language == "python"]
    with closing(), contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            Page(blocks, folder).run()
        except BaseException:
            print(printed.getvalue(), file=sys.stderr)
            raise


if __name__ == "__main__":
    main(sys.argv[1])
