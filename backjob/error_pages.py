"""Error pages and the bodies of redirects: they repeat what a user typed, and are no part of a job's output.

Knows HTML, URLs and the debug pages of frameworks. Knows no jobs.
"""

from __future__ import annotations

import re

TYPES = frozenset({"text/html", "application/xhtml+xml"})
_HTML = re.compile(
    r"(?:[\s\ufeff\ufffd]|<!--(?:(?!-->).)*-->|<\?[^>]*>)*"
    r"<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|center)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
"""Begin of a text that is HTML (WHATWG MIME Sniffing, section 7.1)."""
_DEBUG_PAGE = re.compile(
    r"^Request URL: [^\n]*\n\s*Django Version: |debug_(?:notfound|authorization) of url ", re.MULTILINE
)
"""The debug pages of Django and Pyramid in plain text and JSON: They show the URL
with its query. Those of Django also show the data, the cookies and the settings."""


def is_error_page(text: str) -> bool:
    """Return whether the text of a failing response is an HTML page, or a framework's debug page in another format."""
    text = text.replace("\0", "")  # of UTF-16 that is declared as something else
    return _HTML.match(text) is not None or _DEBUG_PAGE.search(text) is not None


def may_show_secret(location: str) -> bool:
    """Return whether a location has parts that may hold a secret: query, fragment, path parameters or a user name.

    WebOb writes the whole location into the redirect's body, also in plain text and JSON.
    """
    return any(mark in location for mark in "?#;@")
