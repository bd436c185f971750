"""Redirects: their targets, and which of them complete a job.

Knows URLs (RFC 3986), redirects (RFC 9110, sections 10.2.2 and 15.4) and the values of ``redirect_ok``. Knows no jobs
and no WSGI.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urljoin, urlsplit

from backjob.model.address import DEFAULT_PORTS

from .mounts import PATH_CHARACTERS

RedirectOk = bool | str | Callable[[int, str], object]
"""The values of ``redirect_ok``: True, False, a path prefix, or a function of the status and the location."""

_ALLOWED = 'must be True, False, a path prefix such as "/ticket/", or a plain function of (status, location)'
_LOGIN = re.compile(
    r"(?:[\w@:]+[-_.])?(?:@@|user|member|admin)?(?:log|sign)[-_]?(?:in|on)(?:[-_.](?:form|page|required|action|do|php|html?|aspx?|jsp|cgi))?"
    r"|sso|saml2?|(?:oauth2?|oidc|openid)(?:[-_].*)?",
    re.IGNORECASE,
)
"""A segment of a path that belongs to a login page."""
_LAST_OF_LOGIN = re.compile(r"auth|authori[sz]e|authenticate", re.IGNORECASE)
"""A last segment that belongs to a login page: /auth is one, /admin/auth/user/7 is not."""
_LOGIN_HOST = re.compile(r"(?:.*-)?(?:login|signin|sso|auth|oauth|idp)(?:-.*)?", re.IGNORECASE)
_LOGIN_QUERIES = ({"SAMLRequest"}, {"wa", "wtrealm"}, {"response_type", "client_id"})
"""Names in queries of requests for a login: SAML 2.0, WS-Federation and OAuth 2.0 (RFC 6749, section 4.1.1)."""
_IGNORED_BY_BROWSERS = re.compile(r"[\t\r\n]|^[\x00-\x20]+|[\x00-\x20]+$")


@dataclass(frozen=True)
class Page:
    """The URL of a job, and the facts about its site."""

    url: str = field(repr=False)
    """Absolute, without the query."""
    hosts: tuple[str, ...] = ()
    """The names, with ports, under which the application is reached."""
    is_safe: bool = True
    """True if its method changes nothing (RFC 9110, section 9.2.1)."""
    login_url: str = field(repr=False, default="")
    """The URL of the application's login page, "" where it is not known."""
    mount: str = ""
    """The path at which BackJob is mounted."""
    site_url: str | None = None
    """For a job that was started outside of a request: the site as ``site_url`` gives it, "" without this option. None
    for jobs that a request started."""


@dataclass(frozen=True)
class Redirect:
    """The target of a redirect, read as a browser reads it (RFC 9110, section 10.2.2)."""

    code: int
    target: SplitResult | None = field(repr=False)
    """Absolute; None without a Location, or with one that can't be read."""
    is_own: bool
    """True if it leads to a page of the application's own site."""

    @property
    def path(self) -> str:
        """Decoded and without dot segments, for comparisons."""
        return normalize_path(self.target.path) if self.target else ""

    @property
    def shown_path(self) -> str:
        """The path for people: encoded, and without path parameters, which may hold secrets."""
        if self.target is None or self.target.scheme not in ("http", "https"):
            return ""
        return quote(re.sub(r";[^/]*", "", self.target.path) or "/", safe=f"{PATH_CHARACTERS}%")

    @property
    def shown(self) -> str:
        """The location for people: without query, fragment, user name and path parameters, which may hold secrets."""
        if self.target is None:
            return ""
        return self.shown_path if self.is_own else f"{_find_site(self.target)}{self.shown_path}"

    @property
    def site(self) -> str:
        """Scheme and host of the target, for people: without a user name."""
        return _find_site(self.target) if self.target is not None else ""

    @property
    def url(self) -> str:
        """The whole location: without scheme and host if it is of the application's own site."""
        if self.target is None:
            return ""
        site = "" if self.is_own else _find_site(self.target)
        query = f"?{self.target.query}" if self.target.query else ""
        fragment = f"#{self.target.fragment}" if self.target.fragment else ""
        return f"{site}{self.target.path or '/'}{query}{fragment}"


def read_redirect(code: int, location: str, page: Page) -> Redirect:
    """Return the redirect that this Location is, on this page."""
    location = _IGNORED_BY_BROWSERS.sub("", location).replace("\\", "/")
    if not location:
        return Redirect(code, None, False)
    try:
        target = urlsplit(urljoin(page.url, location))
        own = {_read_host(urlsplit(f"//{each}")) for each in (urlsplit(page.url).netloc, *page.hosts)}
        return Redirect(code, target, target.scheme in ("http", "https") and _read_host(target) in own)
    except ValueError:
        return Redirect(code, None, False)


def is_login(redirect: Redirect, page: Page) -> bool:
    """Return whether a redirect leads to the application's own login page. False if that page is not known."""
    if redirect.target is None or not page.login_url:
        return False
    login = read_redirect(redirect.code, page.login_url, page)
    return (login.is_own, login.path.rstrip("/")) == (redirect.is_own, redirect.path.rstrip("/"))


def looks_like_login(redirect: Redirect, page: Page, option: RedirectOk) -> bool:
    """Return whether the target of a redirect looks like a login page.

    It has a usual name then, or a query that asks to come back to ``page``. A path that ``option`` names does not.
    """
    target = redirect.target
    if target is None:
        return False
    named = unquote(option).rstrip("/") if isinstance(option, str) and is_allowed(redirect, option) else ""
    places = f"{redirect.path[len(named) :]}/{unquote(target.fragment)}".split("/")
    segments = [segment for each in places if (segment := each.partition(";")[0].strip())]
    if any(_LOGIN.fullmatch(each) for each in segments) or (segments and _LAST_OF_LOGIN.fullmatch(segments[-1])):
        return True
    if not redirect.is_own and any(_LOGIN_HOST.fullmatch(each) for each in (target.hostname or "").split(".")):
        return True
    if named:
        return False
    query = parse_qsl(target.query)
    if any(names <= {name for name, _ in query} for names in _LOGIN_QUERIES):
        return True
    own = normalize_path(urlsplit(page.url).path)
    own_paths = {own.rstrip("/"), own.removeprefix(page.mount).rstrip("/")} - {""} or {""}
    back = (read_redirect(redirect.code, value, page) for _, value in query if "/" in value)
    return any(each.is_own and each.path.rstrip("/") in own_paths for each in back)


def is_allowed(redirect: Redirect, option: RedirectOk) -> bool:
    """Return whether ``redirect_ok`` allows a redirect. Exceptions of the application's function are not caught."""
    if isinstance(option, bool):
        return option
    if not isinstance(option, str):
        found = option(redirect.code, redirect.url)
        if inspect.isawaitable(found) or inspect.isgenerator(found):
            raise TypeError(f"redirect_ok {_ALLOWED}, it returned {type(found).__name__}")
        return bool(found)
    prefix = unquote(option)
    is_below = redirect.path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")
    return redirect.is_own and (is_below or redirect.path == prefix)


def check_redirect_ok(option: Any) -> None:
    """Raise TypeError or ValueError for a value that ``redirect_ok`` can't have."""
    if isinstance(option, bool):
        return
    if isinstance(option, str):
        is_path = option.startswith("/") and normalize_path(option) == unquote(option)
        if not is_path or not option.isprintable() or re.search(r"//|[?#\\;]", option):
            raise ValueError(f"redirect_ok {_ALLOWED}, got {re.split('[?#;]', option)[0][:80]!r}")
    elif not callable(option) or inspect.iscoroutinefunction(option) or isinstance(option, type):
        raise TypeError(f"redirect_ok {_ALLOWED}, got {type(option).__name__}")


def seal_redirect_ok(option: RedirectOk | None) -> bool | str | None:
    """Return what a record keeps of the argument of start(): for a function its name, "module:function".

    The job may run in another process, which imports it. Raises TypeError or ValueError for any other value, and for a
    function that can't be imported by its name.
    """
    if option is None:
        return None
    check_redirect_ok(option)
    if isinstance(option, (bool, str)):
        return option
    module, name = getattr(option, "__module__", None), getattr(option, "__qualname__", "")
    try:
        is_importable = module not in (None, "__main__") and load_redirect_ok(f"{module}:{name}") is option
    except (ImportError, AttributeError, ValueError):  # such as <lambda> or <locals>
        is_importable = False
    if not is_importable:
        raise ValueError(
            "redirect_ok of start() must be a function that other processes can import, at the top level of a module: "
            f"{name or type(option).__name__} is not. Set the option redirect_ok of BackJob to it, or use a path prefix"
        )
    return f"{module}:{name}"


def load_redirect_ok(sealed: bool | str) -> RedirectOk:
    """Return the argument of start(). Raises ImportError or AttributeError for one that can't be imported here."""
    if isinstance(sealed, bool) or sealed.startswith("/"):
        return sealed
    function: RedirectOk = pkgutil.resolve_name(sealed)
    return function


def _find_site(target: SplitResult) -> str:
    """Return scheme and host, without a user name."""
    if target.scheme not in ("http", "https"):
        return f"{target.scheme}:"
    return f"{target.scheme}://{target.netloc.rpartition('@')[2]}"


def _read_host(parts: SplitResult) -> tuple[str, int | None]:
    """Return host and port, None for a default port: behind a proxy the scheme says nothing about it."""
    return parts.hostname or "", None if parts.port in DEFAULT_PORTS.values() else parts.port


def normalize_path(path: str) -> str:
    """Return a path as a server resolves it: percent-decoded, and without dot segments (RFC 3986, section 5.2.4)."""
    kept: list[str] = []
    *segments, last = unquote(path).replace("\\", "/").split("/")[1:] or [""]
    for each in (*segments, *((last, "") if last in (".", "..") else (last,))):
        if each == "..":
            del kept[-1:]
        elif each != ".":
            kept.append(each)
    return "/" + "/".join(kept)
