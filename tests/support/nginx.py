"""A real nginx of a test's own: no root needed, all of its files in one directory, at places that it inherits."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import needs
from support.places import Place

_MAIN = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/pid;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    log_format told '$server_port $request_method $request_uri $status [$upstream_addr] [$upstream_status]';
    access_log {directory}/access.log told;
{http}
}}
"""
_STOP_TIMEOUT = 10.0


@dataclass
class Nginx:
    """An nginx that runs."""

    directory: Path
    process: subprocess.Popen[bytes]
    is_finished: bool = False

    @property
    def requests(self) -> list[str]:
        """What it has noted so far: "PORT METHOD TARGET STATUS [upstreams] [their statuses]"."""
        return (self.directory / "access.log").read_text(errors="replace").splitlines()

    def finish(self) -> list[str]:
        """Let it end what is under way, and itself: all the requests. It notes each after its answer."""
        self.process.send_signal(signal.SIGQUIT)
        assert self.process.wait(_STOP_TIMEOUT) == 0, f"nginx has failed: {self.log}"
        self.is_finished = True
        return self.requests

    @property
    def log(self) -> str:
        return (self.directory / "error.log").read_text(errors="replace")


@contextlib.contextmanager
def nginx(directory: Path, http: str, *places: Place) -> Iterator[Nginx]:
    """Run nginx until the block ends. ``http`` is what stands in its http block: server and upstream blocks.

    Each place must be named by a ``listen`` in it: ``listen {place.authority};``. It listens before nginx runs, so that
    there is no port to guess and nothing to wait for, and it is nginx's from then on. ``directory`` is made, and holds
    all that nginx reads and writes.
    """
    program = needs.program("nginx")
    directory.mkdir()
    # As root, nginx's workers would be another user, who may not see the test's files.
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(_MAIN.format(user=user, directory=directory, http=http))
    with contextlib.ExitStack() as handing_over:
        descriptors = []
        for place in places:
            assert f"listen {place.authority}" in http, f"nothing listens at {place.authority}"
            descriptors.append(handing_over.enter_context(place.handing_over()))
        process = subprocess.Popen(
            [program, "-p", directory, "-e", directory / "error.log", "-c", config],
            # The way in which an nginx hands its sockets on to a newer one.
            env=os.environ | {"NGINX": "".join(f"{descriptor};" for descriptor in descriptors)},
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    running = Nginx(directory, process)
    try:
        yield running
        assert running.is_finished or process.poll() is None, f"nginx has ended: {running.log}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        finally:
            with contextlib.suppress(ProcessLookupError):  # its workers, if it did not end in time
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # pytest shows this only when the test fails.
        print(f"--- log of nginx\n{running.log}", *running.requests, sep="\n", file=sys.stderr)
