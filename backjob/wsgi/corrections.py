"""Redirects that are sent before the work is done: corrections of the job's own URL, and 307 and 308.

Knows what servers and frameworks correct in a URL. Knows no jobs and no options.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from .mounts import quote_path
from .redirects import Page, Redirect, normalize_path

_SEND_AGAIN = (307, 308)
"""Statuses that ask the client to send the same request to the target (RFC 9110, section 15.4)."""
_LANGUAGE = re.compile(r"[a-z]{2}(?:[-_][a-z0-9]{2,8})*", re.IGNORECASE)
_CHOSEN_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][a-z0-9]{2,8})*", re.IGNORECASE)


def describe_correction(redirect: Redirect, page: Page, vary: str = "") -> str:
    """Return what a redirect corrects in the URL of its page and how to start the job instead. "" for other redirects.

    ``vary`` is the response's header of that name. If it has Accept-Language, middleware chose a language.
    """
    correction = _Correction(redirect, page, is_by_language="accept-language" in vary.lower())
    if correction.changes and not correction.is_after_work():
        return f"only {' and '.join(correction.changes.values())}: {correction.advise()}"
    if redirect.code in _SEND_AGAIN and redirect.target is not None:
        is_own = redirect.is_own
        hint = f": start the job with the target {redirect.shown_path}" if is_own else ", which is another site"
        return f"asks for the same request there{hint}"
    return ""


class _Correction:
    def __init__(self, redirect: Redirect, page: Page, is_by_language: bool) -> None:
        self._redirect = redirect
        self._page = page
        self._is_by_language = is_by_language
        self.changes = self._find_changes()
        """The corrected parts of the URL, empty if the redirect leads to another page or to the very same URL."""

    def _find_changes(self) -> dict[str, str]:
        base, target = urlsplit(self._page.url), self._redirect.target
        changes: dict[str, str] = {}
        if target is None or target.scheme not in ("http", "https"):
            return changes
        if (base.scheme, target.scheme) == ("http", "https"):
            changes["scheme"] = "changes http to https"
        if not self._redirect.is_own and target.hostname != base.hostname:
            changes["host"] = f"changes the host to {target.hostname}"
        own = normalize_path(base.path)
        path = self._without_language(own)
        if path != self._redirect.path:
            changes["language"] = "adds a language"
        if path.endswith("/") != own.endswith("/"):
            changes["slash"] = f"{'adds' if path.endswith('/') else 'removes'} a slash"
        return changes if path.rstrip("/") == own.rstrip("/") else {}

    def _without_language(self, own: str) -> str:
        """Return the target's path, without its language if ``own`` does not have it there."""
        segments = self._redirect.path.split("/")
        first = self._page.mount.count("/") + 1
        for index, segment in enumerate(segments):
            path = "/".join(segments[:index] + segments[index + 1 :])
            is_guess = index == first and _LANGUAGE.fullmatch(segment)
            is_language = is_guess or (self._is_by_language and _CHOSEN_LANGUAGE.fullmatch(segment))
            if is_language and path.rstrip("/") == own.rstrip("/"):
                return path
        return self._redirect.path

    def is_after_work(self) -> bool:
        """Return whether the redirect may be the answer of the view itself, as in Post/Redirect/Get.

        After a POST a slash or a language may make another page. Middleware that corrects the scheme, "www." or the
        language does so with a 302 too, but never with a 303.
        """
        code = self._redirect.code
        if "host" in self.changes and code != 301 and not self._is_www():
            # A job that a request started has a host that the app accepts.
            return self._page.site_url is None or not self._page.is_safe
        if self._page.is_safe or code not in (302, 303):
            return False
        is_path_kept = not self.changes.keys() & {"language", "slash"}
        return code == 303 or not (is_path_kept or ("language" in self.changes and self._is_by_language))

    def _is_www(self) -> bool:
        target = self._redirect.target
        hosts = [each or "" for each in (urlsplit(self._page.url).hostname, target.hostname if target else "")]
        return hosts[0].removeprefix("www.") == hosts[1].removeprefix("www.")

    def advise(self) -> str:
        """Return from where, or with which target, to start the job instead, or how to correct its site."""
        if self._page.site_url is not None and self.changes.keys() & {"scheme", "host"}:
            return self._advise_site_url(self._page.site_url)
        advice = "start the job"
        if self.changes.keys() & {"language", "slash"}:
            advice += f" with the target {self._redirect.shown_path}"
        if self.changes.keys() & {"scheme", "host"}:
            request = "an https request" if "scheme" in self.changes else "a request"
            advice += f" from {request}{' to that host' if 'host' in self.changes else ''}"
        if "scheme" in self.changes:
            advice += ", or set connect_headers={'X-Forwarded-Proto': 'https'}"
        return advice

    def _advise_site_url(self, site_url: str) -> str:
        # Without the option the host is that of connect=, which a change of the scheme keeps.
        is_known = bool(site_url) or "host" in self.changes
        site = f"{self._redirect.site}{quote_path(self._page.mount)}" if is_known else "https://…"
        use = "" if is_known else " to the URL that people use"
        is_path_kept = not self.changes.keys() & {"language", "slash"}
        target = "" if is_path_kept else f" and start the job with the target {self._redirect.shown_path}"
        return f'set site_url="{site}"{use}{target}, because the job was started outside of a request'
