"""Addresses at which an app may answer: from ``connect=``, from discovery, or from a job's record.

Reads and writes them as text. Opens no connection and knows no server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

_HOST = re.compile(r"[A-Za-z0-9._~:%-]+")
_LONGEST_PATH = 107  # Linux has 108 bytes, with a NUL at the end
_UNVERIFIED = " unverified"
_RECORD = "the job's record"
CONNECT = "connect="
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """Address at which the app may listen: TCP (``host``, ``port``) or a unix socket (``unix``), plain or TLS.

    ``unix`` begins with a NUL for an abstract name. ``uwsgi``: it speaks the uwsgi protocol, not HTTP. ``is_verified``
    requires a certificate for the host; without it only the proof authenticates the peer. ``is_sure``: it was set, or
    a request came in by it; any other address is a guess until it is proven. ``site``: the Host header of
    self-requests, for a server that routes by it; "": the authority. A proof of an address holds for one site only.
    """

    host: str = ""
    port: int = 0
    unix: str = ""
    tls: bool = False
    uwsgi: bool = False
    is_verified: bool = False
    site: str = ""
    found: str = field(default="", compare=False)
    is_sure: bool = field(default=True, compare=False)

    @property
    def is_recorded(self) -> bool:
        """True if it comes from a job's record, which another app may have written."""
        return self.found == _RECORD

    @property
    def authority(self) -> str:
        """Host and port as in a Host header (RFC 9110, section 7.2)."""
        if self.unix:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = not self.uwsgi and self.port == DEFAULT_PORTS["https" if self.tls else "http"]
        return host if is_default else f"{host}:{self.port}"

    @property
    def wire_host(self) -> str:
        """Host header of a self-request. It never comes from a job, whose user may have chosen it."""
        return self.site or self.authority

    @property
    def public(self) -> str:
        """Name of the address in public messages."""
        return "the app's own address"

    def __str__(self) -> str:
        scheme = "uwsgi" if self.uwsgi else "https" if self.tls else "http"
        if self.unix:
            return f"{'uwsgi' if self.uwsgi else 'unix'}:{self.unix}".replace("\0", "@")
        return f"{scheme}://{self.authority}"


def parse_connect(text: str) -> Address:
    """Read a ``connect=`` option. Raises ValueError with what is allowed, and without a password or a query."""
    shown = "the value" if "@" in text and "//" in text else repr(re.split(r"[?#\x00-\x1f\x7f]", text)[0])
    allowed = f'{shown} is not "http://host:port", "https://host:port", "unix:/path" or, to uWSGI, "uwsgi://host:port"'
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError(allowed)
    scheme, colon, rest = text.partition(":")
    is_path = rest.startswith(("/", "@")) and (not rest.startswith("//") or rest.startswith("///"))
    if colon and (scheme == "unix" or (scheme == "uwsgi" and is_path)):
        path = rest.removeprefix("//")
        if not is_path or path == "@":
            raise ValueError(allowed)
        if len(path.encode()) > _LONGEST_PATH:
            raise ValueError(f"a unix socket's path is at most {_LONGEST_PATH} bytes long")
        # "@" is the usual notation for the NUL before an abstract name.
        path = path if path.startswith("/") else "\0" + path[1:]
        return Address(unix=path, uwsgi=scheme == "uwsgi", found=CONNECT)
    if "@" in text:
        raise ValueError("connect= must have no user or password: put it into connect_headers=")
    try:
        parts = urlsplit(text)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as a name look-up does
    except ValueError:
        raise ValueError(allowed) from None
    host, uwsgi, tls = parts.hostname or "", parts.scheme == "uwsgi", parts.scheme == "https"
    if parts.scheme not in ("http", "https", "uwsgi") or not _HOST.fullmatch(host) or port == 0:
        raise ValueError(allowed)
    if uwsgi and port is None:
        raise ValueError(f"{allowed}: uwsgi has no port of its own")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{allowed}: the path comes from each request's own SCRIPT_NAME")
    port = port or DEFAULT_PORTS[parts.scheme]
    return Address(host=host, port=port, tls=tls, uwsgi=uwsgi, is_verified=tls, found=CONNECT)


def write_origin(address: Address) -> str:
    """Return the address as it is sealed in a job's record."""
    return str(address) + (_UNVERIFIED if address.tls and not address.is_verified else "")


def read_origin(text: str) -> Address:
    """Return the address that write_origin() wrote, as a guess: its server may be gone. Raises ValueError."""
    address = parse_connect(text.removesuffix(_UNVERIFIED))
    is_verified = address.is_verified and not text.endswith(_UNVERIFIED)
    return replace(address, is_verified=is_verified, found=_RECORD, is_sure=False)


def add_site(address: Address, site: str) -> list[Address]:
    """Return the address, and the same with this Host header, which is tried if the address's own Host leads elsewhere.

    The first one is no longer sure, because another site of the same server may answer there.
    """
    if not site or site == address.authority:
        return [address]
    return [replace(address, is_sure=False), replace(address, site=site)]
