"""The option ``site_url``: the site's URL for jobs that are started outside of a request.

Reads a URL. Knows no request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from ._socket import check_target

_ALLOWED = 'is not like "https://shop.example" or "https://shop.example/mount"'
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,253}|[0-9A-Fa-f:.]{2,45}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


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
    if "?" in text or "#" in text:
        raise ValueError(f"it must have no query and no fragment: {text!r} {_ALLOWED}")
    try:
        parts = urlsplit(text)
        name, port = parts.hostname or "", parts.port
        path = check_target(parts.path or "/").rstrip("/")
    except ValueError:
        raise ValueError(f"{text!r} {_ALLOWED}") from None
    # urlsplit() drops control characters, and blanks around the URL.
    if parts.scheme not in _DEFAULT_PORTS or not _NAME.fullmatch(name) or port == 0 or re.search(r"[^\x21-\x7e]", text):
        hint = "; write a name that is not ASCII as xn--…" if not text.isascii() else ""
        raise ValueError(f"{text!r} {_ALLOWED}{hint}")
    if any(segment in (".", "..") for segment in unquote_to_bytes(path).decode("latin-1").split("/")):
        raise ValueError(f"{text!r} {_ALLOWED}")
    default = _DEFAULT_PORTS[parts.scheme]
    host = f"[{name}]" if ":" in name else name
    authority = host if port in (None, default) else f"{host}:{port}"
    mount = unquote_to_bytes(path).decode("latin-1")
    return SiteUrl(parts.scheme, authority, name, port or default, mount)
