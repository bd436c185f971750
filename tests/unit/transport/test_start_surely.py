"""When start() returns, the job is recorded, and when it raises, it is not: whatever goes wrong around it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import needs
from support.served import make_environ, wrap

from backjob import AddressError, LaunchError, Status
from backjob.runtime.server_info import detect_server
from backjob.transport.discovery import discover


@pytest.mark.parametrize("is_after_response", [False, True])
@pytest.mark.parametrize("error", [AttributeError, KeyError, OSError, AddressError, LaunchError, RecursionError])
def test_a_launch_that_breaks_is_tried_again(tmp_path: Path, error: type[Exception], is_after_response: bool) -> None:
    def launch(*_: Any) -> bool:
        raise error

    with wrap(tmp_path) as site:
        site.launches.launch = launch  # type: ignore[method-assign]
        job_id = site.start("/job", after_response=is_after_response)
        assert site.status(job_id).status is Status.STARTED
        assert site.backend.dispatcher._look_at < float("inf")


def test_a_record_that_a_hook_can_not_be_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A trigger of the database's administrator spoils it as soon as it is written."""
    seen: list[int] = []
    with wrap(tmp_path, on_start=lambda job: seen.append(job.id)) as site:
        site.start("/job")
        spoil = "UPDATE background_job SET created_at = 'spoiled' WHERE id = new.id"
        site.sql(f"CREATE TRIGGER spoil AFTER INSERT ON background_job BEGIN {spoil}; END")
        assert site.start("/job") == 2
        assert seen == [1]
        assert len(site.launches.tokens) == 2
        assert "Job 2: on_start" in caplog.text


class Strange:
    """An object of a server's next version."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


STRANGE = SimpleNamespace(adj=1, cfg=1)


@pytest.mark.parametrize(
    ("module", "environ"),
    [
        (None, {"gunicorn.socket": Strange()}),
        (None, {"werkzeug.socket": SimpleNamespace(family=2, getsockname=lambda: ())}),
        (None, {"waitress.client_disconnected": SimpleNamespace(__self__=SimpleNamespace(server=STRANGE))}),
        ("uwsgi", {"uwsgi.version": b"9"}),
        ("mod_wsgi", {"mod_wsgi.version": 9, "mod_wsgi.process_group": "a"}),
        (None, {"asgi.scope": {"server": ("::1", Strange())}}),
    ],
)
def test_a_server_of_another_version_is_one_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, module: str | None, environ: dict[str, Any]
) -> None:
    if module:
        monkeypatch.setitem(sys.modules, module, Strange())
    environ = make_environ("/", **environ)
    assert isinstance(discover(environ), list)
    assert detect_server(environ).timeout == 0


WITHOUT_PROC = """
import os, sys, threading, time, urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server
from backjob import BackJob

assert not os.path.exists("/proc/self") and not os.path.exists("/dev/fd/0")

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["backjob"].is_worker:
        return [b"done"]
    return [str(environ["backjob"].start("/job")).encode()]

application = BackJob(app, key="key12345" * 4)
server = make_server("127.0.0.1", 0, application)
threading.Thread(target=server.serve_forever, daemon=True).start()
job_id = int(urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/start").read())
end = time.monotonic() + 20
while not application.jobs.status(job_id).status.is_final and time.monotonic() < end:
    time.sleep(0.05)
print(application.jobs.status(job_id).status_text)
check = application.check()
assert check.is_ok, check
server.shutdown()
server.server_close()
application.close()
"""


@pytest.mark.live
def test_without_proc(tmp_path: Path) -> None:
    """As in a chroot and in some containers."""
    if os.geteuid():
        needs.miss("only root can have a mount of its own")
    shell = 'mount -t tmpfs none /proc && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", shell, "sh", sys.executable, "-c", WITHOUT_PROC]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
