"""Are the configurations on a page real? Each program reads its own; ini files are read as their servers read them."""

from __future__ import annotations

import configparser
import os
import pwd
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from backjob import BackJob

from . import needs
from .commands import check_options
from .servers import Certificate

_NGINX = """\
{user}
pid {directory}/pid;
error_log {directory}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{http}
}}
"""
_APACHE = """\
ServerRoot {directory}
ServerName localhost
PidFile {directory}/apache.pid
Mutex file:{directory}
ErrorLog {directory}/error.log
Listen 127.0.0.1:8000
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module {wsgi}
{block}
"""


def check_nginx(text: str, directory: Path) -> None:
    """``nginx -t`` takes it, at places of the test's own."""
    certificate = Certificate.make(directory).chain
    text = re.sub(r"listen (?:[\w.]+:)?(\d+)", rf"listen unix:{directory}/\1", text)
    text = re.sub(r"(ssl_certificate(?:_key)?) .+;", rf"\1 {certificate};", text)
    text = text.replace("include uwsgi_params", "include /etc/nginx/uwsgi_params")
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(user=user, directory=directory, http=text))
    _run(needs.program("nginx"), "-t", "-q", "-p", directory, "-e", directory / "error.log", "-c", config)


def check_apache(text: str, directory: Path) -> None:
    """``apache2 -t`` takes it, with mod_wsgi."""
    express = needs.script("mod_wsgi-express")
    wsgi = _run(express, "module-location").strip()
    config = directory / "apache.conf"
    config.write_text(_APACHE.format(directory=directory, wsgi=wsgi, block=text))
    _run(needs.program("apache2"), "-t", "-f", config)


def check_ini(text: str) -> None:
    """Each section is one that somebody reads: PasteDeploy, uWSGI, or ``from_settings()``."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names count as they are
    parser.read_string(text)
    assert parser.sections(), "there is nothing in it"
    for title in parser.sections():
        kind, _, name = title.partition(":")
        settings = dict(parser[title])
        if kind == "uwsgi":
            check_options("uwsgi", [f"--{option}" for option in settings])
        elif kind in ("filter", "backjob") and settings.pop("use", "egg:backjob") == "egg:backjob":
            _read_options(settings, prefix="")
        elif kind == "pipeline":
            *filters, _ = settings["pipeline"].split()
            assert all(f"filter:{each}" in parser for each in filters), filters
        elif kind == "server":
            runner = settings["use"].removeprefix("egg:")
            assert {"waitress", "gunicorn"} >= {runner.partition("#")[0]}, runner
            assert entry_points(group="paste.server_runner", name=runner.partition("#")[2] or "main"), runner
        elif kind in ("app", "composite"):
            assert name, title
            _read_options(settings, prefix="backjob.")
        else:
            raise AssertionError(f"nobody knows what [{title}] is")


def _read_options(settings: dict[str, str], prefix: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return []

    key = {f"{prefix}key": "a-key-for-tests-and-for-nothing-but-tests"}  # the pages leave it to $BACKJOB_KEY
    BackJob.from_settings(app, key | settings, prefix).close()


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{sys.executable}: {done.stdout}{done.stderr}"
    return done.stdout
