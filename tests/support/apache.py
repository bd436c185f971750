"""Apache with the mod_wsgi that PyPI's package compiles for this environment's Python, and with Debian's Passenger."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support import needs
from support.servers import PACKAGE, Setup, Site

_MODULES = Path("/usr/lib/apache2/modules")
# The directives that are the same for every way to run it. As an app's author writes them, but for the places of files.
_CONFIG = """\
ServerRoot {directory}
ServerName localhost
PidFile {directory}/apache.pid
Mutex file:{directory}
ErrorLog /proc/self/fd/2
LogLevel warn
LoadModule mpm_{mpm}_module {modules}/mod_mpm_{mpm}.so
LoadModule authz_core_module {modules}/mod_authz_core.so
Listen {where}
{tls}
{options}
"""
_WSGI = """\
LoadModule wsgi_module {wsgi}
WSGIPythonHome {prefix}
WSGIApplicationGroup %{{GLOBAL}}
WSGIPassAuthorization On
WSGIScriptAlias / {directory}/site.wsgi
<Directory {directory}>
    Require all granted
</Directory>
{options}
"""
_PASSENGER = """\
LoadModule passenger_module {modules}/mod_passenger.so
PassengerRoot /usr/lib/ruby/vendor_ruby/phusion_passenger/locations.ini
PassengerInstanceRegistryDir {directory}
PassengerDataBufferDir {directory}
PassengerUserSwitching Off
PassengerPython {python}
PassengerAppRoot {directory}
PassengerAppType wsgi
PassengerStartupFile site.wsgi
PassengerMinInstances {processes}
PassengerMaxPoolSize {processes}
DocumentRoot {directory}/public
<Directory {directory}/public>
    Require all granted
</Directory>
"""
_TLS = """\
LoadModule ssl_module {modules}/mod_ssl.so
SSLEngine on
SSLCertificateFile {certificate}
SSLCertificateKeyFile {certificate}
"""
_SCRIPT = """\
import sys

sys.path[:0] = {path!r}
from {module} import {attribute} as application
"""
# Apache lets nobody serve as root, and no other user may read what root's Python and tests have. So it is another user
# who may read and write all files.
_AS_SOMEBODY = (
    *("setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)


def _run_as_somebody(*command: str) -> list[str]:
    return [*(_AS_SOMEBODY if os.geteuid() == 0 else ()), *command]


def _write_script(site: Site) -> Path:
    module, _, attribute = site.app.partition(":")
    path = [str(site.apps), str(PACKAGE.parent)]
    script = site.directory / "site.wsgi"
    script.write_text(_SCRIPT.format(path=path, module=module, attribute=attribute))
    return script


def _run_apache(site: Site, mpm: str, options: str) -> list[str]:
    program = needs.program("apache2")
    _write_script(site)
    config = site.directory / "apache.conf"
    config.write_text(
        _CONFIG.format(
            directory=site.directory,
            mpm=mpm,
            modules=_MODULES,
            where=site.place.authority,
            tls=_TLS.format(modules=_MODULES, certificate=site.certificate) if site.certificate else "",
            options=options,
        )
    )
    return _run_as_somebody(program, "-D", "FOREGROUND", "-f", str(config))


def _run_mod_wsgi(site: Site) -> list[str]:
    express = needs.script("mod_wsgi-express")
    wsgi = subprocess.run([express, "module-location"], capture_output=True, check=True, text=True).stdout.strip()
    mpm, *options = site.setup.options
    more = "\n".join(options).format(directory=site.directory)
    named = _WSGI.format(wsgi=wsgi, prefix=sys.prefix, directory=site.directory, options=more)
    return _run_apache(site, mpm, named)


def _run_passenger(site: Site) -> list[str]:
    if not (_MODULES / "mod_passenger.so").exists():
        needs.miss("there is no Passenger: tests/machine/install brings it")
    if sys.version_info >= (3, 12):
        needs.miss("Debian's Passenger imports imp, which Python 3.12 has no more")
    (site.directory / "public").mkdir(exist_ok=True)
    options = _PASSENGER.format(
        directory=site.directory, modules=_MODULES, python=sys.executable, processes=site.setup.slots
    )
    return _run_apache(site, "event", options)


def _apache(name: str, slots: int, *options: str, command: Callable[[Site], list[str]] = _run_mod_wsgi) -> Setup:
    products = "mod_wsgi", "apache2"
    return Setup(f"mod_wsgi-{name}", slots, options, command=command, is_inheriting=False, products=products)


def embedded(processes: int, threads: int = 1) -> Setup:
    """In Apache's own processes, of one thread each or of several."""
    slots = processes * threads
    limits = [f"StartServers {processes}", f"ServerLimit {processes}", f"MaxRequestWorkers {slots}"]
    if threads == 1:
        return _apache("embedded-prefork", slots, "prefork", *limits)
    limits += [f"ThreadsPerChild {threads}", f"MinSpareThreads {threads}", f"MaxSpareThreads {slots}"]
    return _apache("embedded-event", slots, "event", *limits)


def daemon(threads: int, processes: int = 1) -> Setup:
    """In processes of the app's own."""
    group = f"WSGIDaemonProcess site processes={processes} threads={threads} home={{directory}}"
    name = "daemon" if processes == 1 else f"daemon-{processes}-processes"
    return _apache(name, processes * threads, "event", group, "WSGIProcessGroup site")


def _run_express(site: Site) -> list[str]:
    script = _write_script(site)
    options = ["--host", site.host, "--port", site.port, "--server-root", str(site.directory / "express")]
    options += ["--log-to-terminal", *site.setup.options]
    return _run_as_somebody(needs.script("mod_wsgi-express"), "start-server", *options, str(script))


def express(threads: int) -> Setup:
    return _apache("express", threads, "--processes", "1", "--threads", str(threads), command=_run_express)


def passenger(processes: int) -> Setup:
    """Without paying for more, each process of the app serves one request at a time."""
    products = "passenger", "apache2"
    return Setup(
        "passenger", processes, command=_run_passenger, is_inheriting=False, needs_connect=True, products=products
    )
