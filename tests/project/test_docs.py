"""The docs hold: they build without a warning, the reference has every name, and each code block is a real one.

Every page is taken in by itself. What a block has to be, by the language that it names:

``python``
    The blocks of a page run from top to bottom in one process (``support.page_runner``), in an empty folder:

    * One whose first line is a file's name, ``# site.py``, is that file, written before the first block runs, and
      imported in its turn. ``# test_site.py`` is run by pytest.
    * One that sets ``application`` is a module of its own, and what it answers to ``GET /`` is no 5xx. It has ``app``,
      ``secret`` and ``BackJob``, without imports also the names of the blocks before it; and there is a module
      ``mysite`` with ``app``, ``shop`` and ``insist_on_https``.
    * Any other is a snippet. It runs in a job, with ``environ``, ``job``, ``request`` (of WebOb) and all names of the
      blocks before it; the job must complete, unless the snippet fails it. A function of ``environ`` and
      ``start_response`` that it defines is called.

``console``
    Each command is real (``support.commands``): the program is there and has these options, the make target exists.
    With lines that begin with ``$ ``, the others are output.
``ini``, ``nginx``, ``apache``
    The program takes it, and backjob its options (``support.configurations``).
``text``
    What the ``python`` or ``console`` block before it prints, or a drawing of lines and arrows.
``mermaid``
    The drawing of a job's life.

A block without a language, or with any other, fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from support.commands import check_command, read_commands
from support.configurations import check_apache, check_ini, check_nginx
from support.page_runner import SECRET
from support.pages import DOCS, ROOT, Block, find_pages, parse_blocks, read_blocks
from support.served import make_environ, serve, wrap

import backjob
import backjob.testing
from backjob import BackJob, Config, Status
from backjob.model.transitions import draw_diagram
from backjob.storage.sql.schema import build_table
from backjob.worker.current_job import CurrentJob

PAGES = find_pages()
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
DRAWN = re.compile(r"[─│►▼▲]")
EXTENSIONS = DOCS / "_ext"

STARTED_BY = {
    "SCRIPT_NAME": "/site",
    "wsgi.url_scheme": "https",
    "HTTP_HOST": "example.org",
    "HTTP_COOKIE": "user=Ada",
    "HTTP_AUTHORIZATION": "Basic QWRhOg==",
    "HTTP_ACCEPT_LANGUAGE": "en",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_USER": "ada",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built docs."""
    return build(DOCS, tmp_path_factory.mktemp("site"))


def build(source: Path, target: Path) -> Path:
    """What ``make docs`` does."""
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", target / "doctrees"]
    # Sphinx and its themes have warnings of their own, which are not ours to mend.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-m", "sphinx", *options, source, target / "html"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    return target / "html"


def read_inventory(site: Path) -> dict[str, set[str]]:
    """All that pages can link to, by kind: what Sphinx itself has written down of the build."""
    *_, packed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    names: dict[str, set[str]] = {}
    for line in zlib.decompress(packed).decode().splitlines():
        found = re.match(r"(.+?) (\w+:\S+) -?\d+ ", line)
        assert found, line
        names.setdefault(found[2], set()).add(found[1])
    return names


def test_docs_need_no_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"|<link [^>]*href="([^"]+)"', text)
        assert not [each for each in loaded if "//" in "".join(each)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_every_page_is_there(site: Path) -> None:
    for page in PAGES:
        if page != "README.md":
            assert (site / Path(page).relative_to("docs")).with_suffix(".html").is_file(), page


def test_life_cycle_is_drawn(site: Path) -> None:
    text = (site / "life-cycle.html").read_text(encoding="utf-8")
    drawing = re.search(r"<svg class=\"life-cycle\".*?</svg>", text, re.DOTALL)
    assert drawing
    arrows = re.findall(r"(\w+) --> (\w+): (\w+)", draw_diagram())
    assert len(arrows) > 5
    for source, target, move in arrows:
        assert f"{source} to {target} ({move})" in drawing[0]
    assert drawing[0].count('marker-end="url(#head)"') == len(arrows) + 1


def test_reference_has_all_public_names(site: Path) -> None:
    known = {name for kind, names in read_inventory(site).items() if kind.startswith("py:") for name in names}
    wanted = {f"backjob.{name}" for name in backjob.__all__ if name != "__version__"}
    of_tests = vars(backjob.testing).values()
    wanted |= {f"backjob.testing.{each.__name__}" for each in of_tests if is_public_class(each)}
    for owner in (*map(backjob.__dict__.get, backjob.__all__), CurrentJob):
        if isinstance(owner, type) and not issubclass(owner, (BaseException, Config)):
            where = f"{owner.__module__ if owner is CurrentJob else 'backjob'}.{owner.__name__}"
            bases = [base for base in owner.__mro__ if base.__module__.startswith("backjob.")]
            own = {name for base in (bases if owner is not CurrentJob else [owner]) for name in vars(base)}
            own |= getattr(owner, "__dataclass_fields__", {}).keys()
            wanted |= {f"{where}.{name}" for name in own if not name.startswith("_") and is_told(owner, name)}
    assert {"backjob.Jobs.start", "backjob.JobStatus.past", "backjob.BackJob.check"} <= wanted
    assert wanted - known == set()


def is_public_class(value: object) -> bool:
    """Of those that backjob.testing has, is it its own, and for users?"""
    return isinstance(value, type) and value.__module__ == "backjob.testing" and not value.__name__.startswith("_")


def is_told(owner: type, name: str) -> bool:
    """Is it for users? A job is run by nobody but backjob, and its slots are told where Jobs has them."""
    return not (owner is CurrentJob and name in ("run", "is_worker", "attempt", "job_id"))


def test_reference_has_all_options(site: Path) -> None:
    assert read_inventory(site)["std:confval"] == set(Config.__dataclass_fields__)
    text = (site / "reference" / "options.html").read_text(encoding="utf-8")
    assert "Seconds after which a job is lost unless its process has renewed the lease." in text
    assert text.count("the dotted name of the object") == 8


def test_reference_has_all_columns(site: Path) -> None:
    text = (site / "reference" / "schema.html").read_text(encoding="utf-8")
    for table in build_table(Config.table_name).metadata.tables.values():
        assert f'<span class="caption-text">{table.name}</span>' in text
        for column in table.columns:
            assert f'<span class="pre">{column.name}</span>' in text, column


@pytest.mark.parametrize("as_user", [True, False])
def test_reference_has_all_environ_keys(as_user: bool, tmp_path: Path) -> None:
    text = (DOCS / "reference" / "environ.md").read_text(encoding="utf-8")
    told = {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`(\S+?)`", line)}
    found: list[dict[str, Any]] = []

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found.append(environ)
        start_response("200 OK", [])
        return []

    server = make_environ("/", "POST", RAW_URI="/", REQUEST_URI="/", **{"asgi.scope": {}, "wsgi.file_wrapper": iter})
    server |= {"REMOTE_PORT": "1", "REMOTE_HOST": "h", "REMOTE_IDENT": "i", "AUTH_TYPE": "Basic", "HTTP_X_OTHER": "x"}
    with wrap(tmp_path, job) as site:
        target, more = "/site/report?year=2026", {"method": "POST", "data": {"a": "b"}, "as_user": as_user}
        job_id = site.start(target, by=dict(STARTED_BY), **more)
        site.work(job_id, **{key: value for key, value in server.items() if key not in ("PATH_INFO", "CONTENT_LENGTH")})
    (environ,) = found
    changed = {key for key in server.keys() | environ.keys() if environ.get(key) != server.get(key)}
    forwarded = {"HTTP_" + name.upper().replace("-", "_") for name in Config().forward_headers}
    assert {"backjob", "HTTP_ORIGIN", "PATH_INFO", "wsgi.file_wrapper"} <= changed
    assert changed - told - forwarded - {"HTTP_X_OTHER"} == set()
    assert ("HTTP_COOKIE" in environ) is as_user


def test_what_the_reference_lacks_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions = ['myst_parser', 'life_cycle', 'schema']\nmyst_fence_as_directive = {'mermaid'}\n"
    )
    columns = "```{columns} background_job_process\nname: Its name.\nnonsense: What is not there.\n```\n"
    (tmp_path / "index.md").write_text(f"# Wrong\n\n{columns}\n```mermaid\nstateDiagram-v2\n```\n")
    with pytest.raises(AssertionError) as caught:
        build(tmp_path, tmp_path / "built")
    assert "alive_until, app_version, nonsense, slots" in str(caught.value)
    assert "this is not what backjob.model.transitions.draw_diagram() returns" in str(caught.value)


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.language == "python"}))
def test_python_runs(page: str, tmp_path: Path) -> None:
    assert run_page(page, tmp_path) == ""


def run_page(page: str, folder: Path) -> str:
    """What its process said when it failed, or nothing."""
    environ = os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BACKJOB_KEY": SECRET,
        "SITE_KEY": SECRET,
    }
    # As pyproject.toml has it: WebOb imports cgi.
    warnings = ["-W", "error", "-W", "ignore:'cgi' is deprecated:DeprecationWarning"]
    command = [sys.executable, *warnings, "-m", "support.page_runner", page]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# In a job:\njob.update(50)\nassert request.POST == {'name': 'Ada'}", ""),
        ("# In a job:\njob.fail('no')", ""),
        ("# In a job:\nnonsense", "page.md:2: NameError: name 'nonsense' is not defined"),
        ("def page(environ, start_response):\n    return nonsense(environ)", "NameError: name 'nonsense'"),
        ("# site_one.py\napplication = 'nonsense'", "'str' object is not callable"),
        ("# site_one.py\nfrom mysite import app\napplication = BackJob = app", ""),
        ("def application():\n    pass\napplication = application", "takes 0 positional arguments"),
        ("# test_one.py\ndef test_one():\n    assert False", "test_one.py fails"),
    ],
)
def test_python_that_does_not_run_is_found(text: str, reason: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{text}\n```\n")
    said = run_page(str(page), tmp_path)
    assert reason in said
    assert bool(said) is bool(reason), said


def check_block(block: Block, directory: Path) -> None:
    """All but Python."""
    if block.language == "console":
        for command in read_commands(block.text):
            check_command(command)
    elif block.language == "ini":
        check_ini(block.text)
    elif block.language == "nginx":
        check_nginx(block.text, directory)
    elif block.language == "apache":
        check_apache(block.text, directory)
    elif block.language == "mermaid":
        assert block.text == draw_diagram() + "\n"
    elif block.language == "text":
        assert block.follows in ("python", "console") or DRAWN.search(block.text), "nothing prints this"
    else:
        raise AssertionError(f"no rule for a block of {block.language or 'no language'!r}")


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language != "python"], ids=lambda block: block.place)
def test_block_is_real(block: Block, tmp_path: Path) -> None:
    check_block(block, tmp_path)


def test_there_are_blocks() -> None:
    assert {block.language for block in BLOCKS} >= {"python", "console", "ini", "nginx", "apache", "text", "mermaid"}
    assert len(BLOCKS) > 50


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("    indented\n", "no rule for a block of 'no language'"),
        ("```cobol\nSTOP RUN.\n```\n", "no rule for a block of 'cobol'"),
        ("```text\nfrom nowhere\n```\n", "nothing prints this"),
        ("```console\nmake\n```\n\n# Next\n\n```text\nprinted\n```\n", "nothing prints this"),
        ("```console\nmake nonsense\n```\n", "there is no make nonsense"),
        ("```console\ncd docs && gunicorn --nonsense app:application\n```\n", "2"),
        ("```console\ngunicorn --threads many app:application\n```\n", "2"),
        ("```console\nwaitress-serve --nonsense app:application\n```\n", "waitress-serve has no --nonsense"),
        ("```console\n$ pip install 'backjob[nonsense]'\nprinted\n```\n", "there are no such extras"),
        ("```ini\n[filter:backjob]\nuse = egg:backjob\nnonsense = 1\n```\n", "nonsense is no option"),
        ("```ini\n[nonsense]\n```\n", "nobody knows what"),
        ("```nginx\nserver { nonsense on; }\n```\n", 'unknown directive "nonsense"'),
        ("```apache\nWSGINonsense On\n```\n", "WSGINonsense"),
        ("```mermaid\nstateDiagram-v2\n```\n", "stateDiagram-v2"),
        ("```python\nraise ValueError\n```\n", "no rule for"),
    ],
)
def test_what_is_not_real_is_found(text: str, reason: str, tmp_path: Path) -> None:
    *_, block = parse_blocks(text, "page.md")
    with pytest.raises((AssertionError, SystemExit, ValueError), match=re.escape(reason)):
        check_block(block, tmp_path)


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_quick_start_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> None:
    """As its reader does it, but for the browser: the app on a server, the button, the progress."""
    monkeypatch.chdir(tmp_path)
    source = next(block.text for block in read_blocks("docs/quick-start.md") if block.language == "python")
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(source, "app.py", "exec"), names)
    application: BackJob = names["application"]
    try:
        with serve(application) as server:
            assert b"Make the report" in server.ask("/").body
            reply = server.ask("/start", "POST")
            job_id = int(reply.headers["Location"].rpartition("#")[2])
            ended = wait_until(lambda: (job := application.jobs.status(job_id)).status.is_final and job)
            assert server.ask(f"/status/{job_id}").code == 200
            assert server.ask(f"/status/{job_id + 1}").code == 404
    finally:
        application.close()
    assert (ended.status, ended.progress) == (Status.COMPLETED, 100)
    assert "Month 12 of 2026\nThe report is done." in ended.status_text
