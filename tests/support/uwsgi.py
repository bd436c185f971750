"""uWSGI from PyPI, which is compiled with this environment's Python."""

from __future__ import annotations

import sys

from support import needs
from support.servers import Setup, Site


def _run_uwsgi(site: Site) -> list[str]:
    where = site.unix or f"{site.host}:{site.port}"
    program = [needs.script("uwsgi"), "--home", sys.prefix, "--module", site.app, "--need-app", "--die-on-term"]
    protocol, *options = site.setup.options
    return [*program, protocol, where, *options]


def uwsgi(protocol: str, *options: str, slots: int = 1, name: str = "") -> Setup:
    """``protocol``: "http-socket", "http", or "socket" for a proxy that speaks uwsgi."""
    named = "-".join(part for part in ("uwsgi", protocol, name) if part)
    return Setup(named, slots, (f"--{protocol}", *options), command=_run_uwsgi, is_inheriting=False)
