"""Run an app in a server of Python's own, werkzeug or waitress, on a listening socket that this process inherits.

python inherited.py NAME DESCRIPTOR MODULE:APP [OPTION=NUMBER ...]
"""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import waitress
import werkzeug.serving


def serve_wsgiref(app: Callable, listener: socket.socket) -> None:
    class InheritingServer(WSGIServer):
        def server_bind(self) -> None:
            self.socket.close()
            self.socket = listener
            self.server_name, self.server_port = self.server_address = listener.getsockname()
            self.setup_environ()

    with InheritingServer(listener.getsockname(), WSGIRequestHandler) as server:
        server.set_app(app)
        server.serve_forever()


def serve_werkzeug(app: Callable, listener: socket.socket, threaded: int = 0, processes: int = 1) -> None:
    """As run_simple() does; it alone can't inherit a socket."""
    host, port = listener.getsockname()
    server = werkzeug.serving.make_server(host, port, app, bool(threaded), processes, fd=listener.fileno())
    listener.close()
    server.server_activate()
    server.serve_forever()


def serve_waitress(app: Callable, listener: socket.socket, threads: int) -> None:
    waitress.serve(app, sockets=[listener], threads=threads)


SERVERS = {
    "wsgiref": serve_wsgiref,
    "werkzeug": serve_werkzeug,
    "werkzeug-processes": serve_werkzeug,
    "waitress": serve_waitress,
}

if __name__ == "__main__":
    name, descriptor, where, *options = sys.argv[1:]
    module, _, attribute = where.partition(":")
    application = getattr(importlib.import_module(module), attribute)
    numbers = {name: int(number) for name, _, number in (option.partition("=") for option in options)}
    SERVERS[name](application, socket.socket(fileno=int(descriptor)), **numbers)
