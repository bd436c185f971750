"""uWSGI as PyPI has it, compiled for this environment's Python, and as Debian has it, which is older."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from support import needs
from support.servers import Setup, Site

_DEBIAN = "uwsgi-debian"
_PLUGINS = Path("/usr/lib/uwsgi/plugins")


def _run_uwsgi(site: Site) -> list[str]:
    protocol, *options = site.setup.options
    where = site.unix or site.place.authority
    app = ["--module", site.app, "--need-app", "--die-on-term", "--master"]
    return [*_find_program(site.setup.name.startswith(_DEBIAN)), protocol, where, *app, *options]


def _find_program(is_debian: bool) -> list[str]:
    if not is_debian:
        return [needs.script("uwsgi"), "--home", sys.prefix]
    # Its own Python imports this environment's packages, so it has to be of the same version.
    plugin = "python{}{}".format(*sys.version_info)
    if not (_PLUGINS / f"{plugin}_plugin.so").exists():
        needs.miss(f"Debian's uWSGI has no {plugin}: tests/machine/install brings uwsgi-plugin-python3")
    return [needs.program("uwsgi"), "--plugin", f"{plugin},http", "--pythonpath", sysconfig.get_path("purelib")]


def uwsgi(protocol: str, *options: str, slots: int = 1, kind: str = "", is_debian: bool = False) -> Setup:
    """``protocol``: "http-socket", "http", or "socket" for a proxy that speaks uwsgi. ``kind``: what is special.

    In Debian's version threads stand still between requests, unless it has been told that there are some.
    """
    maker, product = (_DEBIAN, "uwsgi-core") if is_debian else ("uwsgi", "uWSGI")
    name = "-".join(part for part in (maker, protocol, kind) if part)
    options = f"--{protocol}", *options
    return Setup(name, slots, options, command=_run_uwsgi, is_inheriting=False, products=(product,))
