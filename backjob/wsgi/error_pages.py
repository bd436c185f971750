"""Error pages and the bodies of redirects: they repeat what a user typed, and are no part of a job's output.

Knows HTML, URLs and the debug pages of frameworks. Knows no jobs.
"""

from __future__ import annotations

import re

from .redirects import Page, read_redirect

TYPES = frozenset({"text/html", "application/xhtml+xml"})
_HTML = re.compile(
    r"(?:[\s\ufeff\ufffd\xef\xbb\xbf\xff\xfe]|<!--(?:(?!-->).)*-->|<\?[^>]*>)*"
    r"<(?:!doctype\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|center)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
"""The beginning of a text that is HTML (WHATWG MIME Sniffing, section 7.1). A byte order mark may have been decoded as
UTF-8 or Latin-1."""
_DEBUG_PAGE = re.compile(
    r"^Request URL: [^\n]*\n\s*Django Version: |debug_(?:notfound|authorization) of url ", re.MULTILINE
)
"""The debug pages of Django and Pyramid in plain text and JSON. They show the URL with its query, and Django's also the
data, the cookies and the settings."""


def is_error_page(text: str) -> bool:
    """Return whether the text of a failing response is an HTML page, or a framework's debug page in another format."""
    text = text.replace("\0", "")  # of UTF-16 that is declared as something else
    return _HTML.match(text) is not None or _DEBUG_PAGE.search(text) is not None


def may_show_secret(location: str) -> bool:
    """Return whether a location has parts that ``Redirect.shown`` leaves out because they may hold a secret.

    These are query, fragment, path parameters and user name. Locations that are no URLs of http or https are left out
    altogether. WebOb writes the whole location into the redirect's body, also in plain text and JSON.
    """
    target = read_redirect(302, location, Page("http://localhost/")).target
    is_shown = target is not None and target.scheme in ("http", "https")
    return location != "" and (not is_shown or any(mark in location for mark in "?#;@"))
