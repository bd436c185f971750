"""Servers of the Python world beside gunicorn, each as its documentation has people run it."""

from __future__ import annotations

import sys
from collections.abc import Callable

from support import needs
from support.servers import APPS, MANY, Setup, Site

Command = Callable[[Site], list[str]]

_TRACEBACK = r"Traceback \(most recent call last\):\n(?: .*\n)+"
# Under Python's development mode it tells of each client that left before its answer, or spoke HTTP to a TLS port.
_CHEROOT_NOISE = _TRACEBACK + r"OSError: \[Errno 9\] Bad file descriptor"
_GEVENT_NOISE = _TRACEBACK + r"ssl\.SSLError: \[SSL: HTTP_REQUEST\]"


def _run_library(site: Site) -> list[str]:
    needs.package(site.setup.name)
    where = site.unix or f"{site.host} {site.port}"
    tls = [f"certificate={site.certificate}"] if site.certificate else []
    return [sys.executable, str(APPS / "bound.py"), site.setup.name, where, site.app, *site.setup.options, *tls]


def _bound(name: str, slots: int, *options: str, command: Command, products: tuple[str, ...], **more: str) -> Setup:
    """A server that binds by itself."""
    return Setup(name, slots, options, command=command, is_inheriting=False, products=products, **more)


def cheroot(threads: int) -> Setup:
    option = f"threads={threads}"
    return _bound("cheroot", threads, option, command=_run_library, products=("cheroot",), noise=_CHEROOT_NOISE)


GEVENT_PYWSGI = _bound("gevent", MANY, command=_run_library, products=("gevent",), noise=_GEVENT_NOISE)
BJOERN = _bound("bjoern", 1, command=_run_library, products=("bjoern",))
BOTTLE = _bound("bottle", 1, command=_run_library, products=("bottle",), app="bottle_site:application")


def _run_pserve(site: Site) -> list[str]:
    where = [f"http_host={site.host}", f"http_port={site.port}"]
    return [needs.script("pserve"), *site.setup.options, str(APPS / "workshop.ini"), *where]


def pserve(server: str, slots: int) -> Setup:
    """``server`` names a [server:…] section of the ini file."""
    section = f"{server}-{slots}"
    return _bound(
        f"pserve-{server}", slots, "--server-name", section, command=_run_pserve, products=("pyramid", server)
    )


def _run_flask(site: Site) -> list[str]:
    options = ["--host", site.host, "--port", site.port, *site.setup.options]
    return [needs.script("flask"), "--app", site.app.partition(":")[0], "run", *options]


def _flask(name: str, slots: int, *options: str) -> Setup:
    return _bound(name, slots, *options, command=_run_flask, products=("Flask",), app="flask_site:app")


FLASK = _flask("flask-run", MANY)
ONE_FLASK = _flask("flask-run", 1, "--without-threads")
FLASK_DEBUG = _flask("flask-run-debug", MANY, "--debug")


def _run_django(site: Site) -> list[str]:
    needs.package("django")
    where = f"{site.host}:{site.port}"
    return [sys.executable, str(APPS / "manage.py"), "runserver", *site.setup.options, where]


def _django(name: str, slots: int, *options: str) -> Setup:
    return _bound(name, slots, *options, command=_run_django, products=("Django",))


DJANGO = _django("django-runserver", MANY, "--noreload")
ONE_DJANGO = _django("django-runserver", 1, "--noreload", "--nothreading")
DJANGO_RELOADER = _django("django-runserver-reloader", MANY)


def _run_granian(site: Site) -> list[str]:
    where = ["--uds", site.unix] if site.unix else ["--host", site.host, "--port", site.port]
    return [needs.script("granian"), "--interface", "wsgi", *where, *site.setup.options, site.app]


def granian(threads: int, workers: int = 1) -> Setup:
    options = "--workers", str(workers), "--blocking-threads", str(threads)
    name = "granian" if workers == 1 else f"granian-{workers}-workers"
    return _bound(name, workers * threads, *options, command=_run_granian, products=("granian",))


def _run_hypercorn(site: Site) -> list[str]:
    tls = ["--certfile", str(site.certificate), "--keyfile", str(site.certificate)] if site.certificate else []
    return [needs.script("hypercorn"), "--bind", site.place.authority, *tls, *site.setup.options, f"wsgi:{site.app}"]


def hypercorn(workers: int) -> Setup:
    name = "hypercorn" if workers == 1 else f"hypercorn-{workers}-workers"
    return _bound(name, MANY, "--workers", str(workers), command=_run_hypercorn, products=("Hypercorn",))


def _run_uvicorn(site: Site) -> list[str]:
    needs.package("a2wsgi")
    where = ["--uds", site.unix] if site.unix else ["--host", site.host, "--port", site.port]
    tls = ["--ssl-certfile", str(site.certificate), "--ssl-keyfile", str(site.certificate)] if site.certificate else []
    return [needs.script("uvicorn"), *where, *tls, *site.setup.options, site.app]


def uvicorn(threads: int) -> Setup:
    app = f"asgi_site:on_{threads}"
    return _bound("uvicorn-a2wsgi", threads, command=_run_uvicorn, products=("uvicorn", "a2wsgi"), app=app)
