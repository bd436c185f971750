"""Run an app in a server that is a library and binds by itself, as its documentation shows.

python bound.py NAME "HOST PORT"|PATH MODULE:APP [OPTION=VALUE ...]
"""
# ruff: noqa: PLC0415 - only the server that runs is imported, and gevent before all that it patches

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

Where = tuple[str, int] | str


def serve_bottle(app: Callable[..., Any], where: Where) -> None:
    import bottle

    host, port = where
    bottle.run(app, host=host, port=port)


def serve_bjoern(app: Callable[..., Any], where: Where) -> None:
    import bjoern

    host, port = where
    bjoern.run(app, host, port)


def serve_cheroot(app: Callable[..., Any], where: Where, threads: str, certificate: str = "") -> None:
    from cheroot import wsgi
    from cheroot.ssl.builtin import BuiltinSSLAdapter

    server = wsgi.Server(where, app, numthreads=int(threads))
    if certificate:
        server.ssl_adapter = BuiltinSSLAdapter(certificate, certificate)
    server.safe_start()


def serve_gevent(app: Callable[..., Any], where: Where, certificate: str = "") -> None:
    from gevent.pywsgi import WSGIServer

    tls = {"certfile": certificate, "keyfile": certificate} if certificate else {}
    WSGIServer(where, app, **tls).serve_forever()


SERVERS = {"bottle": serve_bottle, "bjoern": serve_bjoern, "cheroot": serve_cheroot, "gevent": serve_gevent}


def main(name: str, where: str, app: str, *options: str) -> None:
    if name == "gevent":
        from gevent import monkey

        monkey.patch_all()  # before the app is imported
    module, _, attribute = app.partition(":")
    application = getattr(importlib.import_module(module), attribute)
    host, _, port = where.partition(" ")
    named = dict(option.split("=", 1) for option in options)
    SERVERS[name](application, (host, int(port)) if port else where, **named)


if __name__ == "__main__":
    main(*sys.argv[1:])
