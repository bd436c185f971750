"""The option ``site_url``: the site's URL for jobs that are started outside of a request.

Reads a URL. Knows no request.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from backjob._socket import check_target
from backjob.model.address import DEFAULT_PORTS

_ALLOWED = 'is not like "https://shop.example" or "https://shop.example/mount"'
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
_NUMERIC = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?")
"""Names whose last label is a number: browsers read them as IPv4 addresses (WHATWG URL Standard, section 3.5)."""
_LONGEST_NAME = 253
_LONGEST = 1000
"""Characters of the URL: it is a part of each job's record."""
_UNSAFE = re.compile(r"%(?:[01][0-9a-f]|7f|2f|(?![0-9a-f]{2}))", re.IGNORECASE)
"""Percent-encoded control characters and slashes, which servers read in different ways, and a % without a code."""


@dataclass(frozen=True)
class SiteUrl:
    """The parts of the URL. ``authority`` is a Host header's value, ``mount`` a SCRIPT_NAME: "" for the root."""

    scheme: str
    authority: str
    name: str
    port: int
    mount: str

    @property
    def variables(self) -> dict[str, str]:
        """Environ keys of the server's name and port (PEP 3333)."""
        return {"SERVER_NAME": self.name, "SERVER_PORT": str(self.port)}


def parse_site_url(text: str) -> SiteUrl:
    """Parse an absolute URL. Raises ValueError, whose message never contains a user or password."""
    if "@" in text:
        raise ValueError(f"it must have no user or password: the value {_ALLOWED}")
    if len(text) > _LONGEST:
        raise ValueError(f"it must have at most {_LONGEST} characters: the value {_ALLOWED}")
    if "?" in text or "#" in text:
        raise ValueError(f"it must have no query and no fragment: the value {_ALLOWED}")
    try:
        parts = urlsplit(text)
        name, port = parts.hostname or "", parts.port
        path = check_target(parts.path or "/").rstrip("/")
    except ValueError:
        raise ValueError(f"{text!r} {_ALLOWED}") from None
    # urlsplit() drops control characters, and blanks around the URL.
    if parts.scheme not in DEFAULT_PORTS or port == 0 or re.search(r"[^\x21-\x7e]", text):
        hint = "; write a name that is not ASCII as xn--…" if not text.isascii() else ""
        raise ValueError(f"{text!r} {_ALLOWED}{hint}")
    if not _is_host(name, is_bracketed=parts.netloc.startswith("[")):
        raise ValueError(f"its host must be a name or an IP address: {text!r} {_ALLOWED}")
    if _UNSAFE.search(path):
        raise ValueError(
            f"its path must have no control character, no %2F and no other % without a code: {text!r} {_ALLOWED}"
        )
    if any(segment in (".", "..") for segment in unquote_to_bytes(path).decode("latin-1").split("/")):
        raise ValueError(f"its path must have no dot segment: {text!r} {_ALLOWED}")
    default = DEFAULT_PORTS[parts.scheme]
    host = f"[{name}]" if ":" in name else name
    authority = host if port in (None, default) else f"{host}:{port}"
    mount = unquote_to_bytes(path).decode("latin-1")
    return SiteUrl(parts.scheme, authority, name, port or default, mount)


def _is_host(name: str, *, is_bracketed: bool) -> bool:
    """Return whether it is a name of the DNS, also with underscores, or an IP address without a zone."""
    if not is_bracketed and not _NUMERIC.fullmatch(name):
        return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return "%" not in name and is_bracketed == (address.version == 6)
