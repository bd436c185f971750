"""Discovery of the application's own address, from the server and never from what a client can send.

Sources in order: the accepted connection's socket, the environ or a module of the server, the listening sockets of this
process. Opens no connection and sends nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from backjob.model.address import Address, parse_connect
from backjob.runtime.server_info import find_uwsgi, find_waitress_channel

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
_SCHEME_HEADERS = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_PROTOCOL", "HTTP_X_FORWARDED_SSL")
_UWSGI_HTTP = ("http-socket", "http11-socket", "https-socket", "http", "https")
"""uWSGI's options for addresses that speak HTTP, those of its workers before those of its router."""

_CLIENT_HEADERS = frozenset({"HTTP_HOST", "HTTP_ORIGIN", "HTTP_REFERER", "HTTP_COOKIE"})
_SITE = re.compile(r"(?:[A-Za-z0-9._~%-]{1,200}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

_MOST_DESCRIPTORS = 1024
"""Listening sockets have low numbers, because a server opens them early."""


def discover(environ: Mapping[str, Any]) -> list[Address]:
    """Return the addresses at which the server of this request may answer, the surest first, without duplicates."""
    return list(dict.fromkeys(_candidates(environ)))


def discover_without_request() -> list[Address]:
    """Return the same addresses in a process that had no request yet."""
    if find_uwsgi() is not None:
        return list(dict.fromkeys(_from_uwsgi()))
    if "mod_wsgi" in sys.modules or "PASSENGER_APP_ENV" in os.environ:
        return []
    listeners = list(_listeners())
    return list(dict.fromkeys([*listeners, *(replace(address, tls=True) for address in listeners)]))


def routes_by_host(environ: Mapping[str, Any]) -> bool:
    """Return whether this server has several sites, so that another Host leads to another site."""
    return "mod_wsgi.version" in environ


def find_site(environ: Mapping[str, Any]) -> str:
    """Return the Host header by which the server has routed this request to the app, or "" if that is not known.

    A middleware may have put another header in its place, such as X-Forwarded-Host, which a visitor may have written.
    So a Host that another header contains too is used only if the original is known.
    """
    original = environ.get("werkzeug.proxy_fix.orig")
    original = original if isinstance(original, Mapping) else {}
    if routes_by_host(environ):  # Apache's SERVER_NAME is the chosen site
        return _check_site(str(original.get("SERVER_NAME") or environ.get("SERVER_NAME", "")))
    host = original.get("HTTP_HOST") or environ.get("HTTP_HOST", "")
    name = str(host).rpartition("]")[0] or str(host).partition(":")[0]
    others = (value for key, value in environ.items() if key.startswith("HTTP_") and key not in _CLIENT_HEADERS)
    if not original and any(name.lower() in str(value).lower() for value in others):
        return ""
    return _check_site(str(host))


def _check_site(host: str) -> str:
    return host if _SITE.fullmatch(host) else ""


def _candidates(environ: Mapping[str, Any]) -> Iterator[Address]:
    for find in (_from_accepted, _from_mod_wsgi, _from_uwsgi_request, _from_asgi, _from_listeners):
        # Other versions of a server may lack these keys and attributes.
        with contextlib.suppress(AttributeError, TypeError, ValueError, LookupError, OSError):
            yield from find(environ)


def _from_accepted(environ: Mapping[str, Any]) -> Iterator[Address]:
    """Yield the local address of the connection by which this request came."""
    for key in ("gunicorn.socket", "werkzeug.socket"):
        yield from _from_socket(environ.get(key), key)
    yield from _from_socket(getattr(find_waitress_channel(environ), "socket", None), "waitress.client_disconnected")


def _from_listeners(environ: Mapping[str, Any]) -> Iterator[Address]:
    """Yield the listening sockets of this process, that of the request's port first."""
    if _descriptors_speak_http(environ):
        port = str(environ.get("SERVER_PORT"))  # an int on hypercorn
        listeners = sorted(_listeners(), key=lambda address: str(address.port) != port)
        yield from _both_schemes(listeners, environ)


def _both_schemes(addresses: Iterable[Address], environ: Mapping[str, Any]) -> Iterator[Address]:
    """Yield addresses that may speak TLS or not, with and without it.

    On some servers the request's scheme may come from a client's header. TLS comes first only if the server itself must
    have set it: some servers log a plain request as an error.
    """
    addresses = list(addresses)
    over_tls = [replace(address, tls=True) for address in addresses]
    if environ.get("wsgi.url_scheme") != "https":
        yield from addresses
    elif not any(name in environ for name in _SCHEME_HEADERS):
        yield from (*over_tls, *addresses)
    else:
        yield from (*addresses, *over_tls)


def _from_mod_wsgi(environ: Mapping[str, Any]) -> Iterator[Address]:
    host, port = environ.get("mod_wsgi.listener_host", ""), environ.get("mod_wsgi.listener_port", "")
    yield from _both_schemes(_from_host_and_port(str(host), str(port), "mod_wsgi.listener_port"), environ)


def _from_asgi(environ: Mapping[str, Any]) -> Iterator[Address]:
    """Yield the address in the scope of a bridge from ASGI: (host, port), or (path, None)."""
    scope = environ.get("asgi.scope")
    server = scope.get("server") if isinstance(scope, Mapping) else None
    if not isinstance(server, (tuple, list)) or len(server) != 2 or not isinstance(server[0], str):
        return
    host, port = server
    if host.startswith("/"):
        addresses = iter([Address(unix=host, found="asgi.scope", is_sure=False)])
    else:
        addresses = _from_host_and_port(host, str(port), "asgi.scope")
    yield from _both_schemes(addresses, environ)


def _from_host_and_port(host: str, port: str, found: str) -> Iterator[Address]:
    if port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        yield Address(host=_LOOPBACK.get(host, host), port=int(port), found=found, is_sure=False)


def _from_uwsgi_request(environ: Mapping[str, Any]) -> Iterator[Address]:
    if find_uwsgi(environ) is not None:
        yield from _from_uwsgi()


def _from_uwsgi() -> Iterator[Address]:
    """Yield uWSGI's addresses: those of its HTTP options, then its sockets, which may speak only the uwsgi protocol."""
    uwsgi = find_uwsgi()
    options = {_text(name): value for name, value in getattr(uwsgi, "opt", {}).items()}
    for option in _UWSGI_HTTP:
        values = options.get(option, ())
        for value in values if isinstance(values, (list, tuple)) else [values]:
            yield from _from_uwsgi_option(option, _text(value).partition(",")[0])
    speaks_http = _text(options.get("protocol", "")).startswith("http") or "http-socket" in options
    for descriptor in getattr(uwsgi, "sockets", None) or ():
        for address in _from_descriptor(descriptor, "uwsgi.sockets"):
            yield from (replace(address, uwsgi=is_uwsgi) for is_uwsgi in (not speaks_http, speaks_http))


def _from_uwsgi_option(option: str, text: str) -> Iterator[Address]:
    host, _, port = text.rpartition(":")
    bare = host.strip("[]")
    host = _LOOPBACK.get(bare, bare)
    scheme = option.partition("-")[0].replace("http11", "http")
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        is_path = text.startswith(("/", "@"))
        address = parse_connect(f"unix:{text}" if is_path else f"{scheme}://{authority}" if port else "")
    except ValueError:
        return  # "=0" is a shared socket, a name without a slash a file in the folder where uWSGI was started
    yield replace(address, found=f"uwsgi.opt[{option!r}]", is_sure=False, is_verified=False)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _from_socket(sock: Any, found: str) -> Iterator[Address]:
    """Yield the local address of an accepted connection. TLS sockets (stdlib's and gevent's) have a cipher."""
    if sock is None:
        return
    try:
        address = _from_name(sock.family, sock.getsockname(), found)
    except (OSError, AttributeError):
        return
    if address:
        yield replace(address, tls=hasattr(sock, "cipher"))


def _from_name(family: int, name: Any, found: str) -> Address | None:
    if family in (socket.AF_INET, socket.AF_INET6):
        return Address(host=_LOOPBACK.get(name[0], name[0]), port=name[1], found=found)
    if family == getattr(socket, "AF_UNIX", None) and name:
        path = os.fsdecode(name)
        return Address(unix=path if path.startswith("\0") else os.path.abspath(path), found=found)
    return None


def _listeners() -> Iterator[Address]:
    """Yield the addresses of the listening sockets among the file descriptors of this process."""
    for descriptor in _list_descriptors():
        yield from _from_descriptor(descriptor, f"listening descriptor {descriptor}")


def _list_descriptors() -> Iterable[int]:
    """Return the open file descriptors. Without /proc, as in a chroot, return all numbers that may be open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return sorted(map(int, os.listdir(folder)))
    return range(_MOST_DESCRIPTORS)


def _from_descriptor(descriptor: int, found: str) -> Iterator[Address]:
    """Yield the address of a descriptor, if it is a listening socket."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return
        # A duplicate, because closing the socket object closes its descriptor.
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return
            address = _from_name(listener.family, listener.getsockname(), found)
    except OSError:
        return
    if address:
        yield replace(address, is_sure=False)


def _descriptors_speak_http(environ: Mapping[str, Any]) -> bool:
    """Return False under uWSGI, mod_wsgi and Passenger, whose descriptors speak other protocols."""
    foreign = ("uwsgi.version", "mod_wsgi.version", "mod_wsgi.process_group")
    return not any(key in environ for key in foreign) and "PASSENGER_APP_ENV" not in os.environ
