"""Somebody at a browser, as a framework's protection sees them: cookies, forms with their hidden fields, Referer."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, HTTPSHandler, ProxyHandler, Request, build_opener

from backjob import Status

from . import wait_until


class _Forms(HTMLParser):
    """The forms of a page: where each leads, and its fields with their values."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((values.get("action", ""), {}))
        elif tag == "input" and self.forms and "name" in values:
            self.forms[-1][1][values["name"]] = values.get("value", "")


@dataclass(frozen=True)
class Page:
    """An answer, at the end of its redirects."""

    status: int
    path: str
    text: str

    def json(self) -> Any:
        assert self.status in (200, 202), f"{self.status}: {self.text[:500]}"
        return json.loads(self.text)


class Visitor:
    """Has cookies of its own. ``url``: scheme and authority of the site."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        handlers = [ProxyHandler({}), HTTPCookieProcessor(), *([HTTPSHandler(context=tls)] if tls else [])]
        self._opener = build_opener(*handlers)

    def ask(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> Page:
        """One request; with a body a POST from a page of the site, if nothing else is said."""
        headers = {"Referer": f"{self.url}/", **(headers or {})}
        request = Request(urljoin(self.url, path), body, headers, method=method)
        try:
            answer = self._opener.open(request, timeout=30)
        except HTTPError as error:
            answer = error
        with answer:
            return Page(answer.status, answer.url.removeprefix(self.url), answer.read().decode())

    def post(self, path: str, **fields: str) -> Page:
        """Post these fields, and no token."""
        return self.ask(path, urlencode(fields).encode())

    def submit(self, path: str, action: str = "", **fields: str) -> Page:
        """Load the page at this path, fill in its form (the one that leads to ``action``), and send it."""
        own = self.fields(path, action)
        return self.ask(action or path, urlencode({**own, **fields}).encode())

    def fields(self, path: str, action: str = "") -> dict[str, str]:
        """The fields of a form with the values that the page gives them."""
        page = self.ask(path)
        parser = _Forms()
        parser.feed(page.text)
        found = [fields for where, fields in parser.forms if where == action]
        assert found, f"no form leads to {action!r}: {page.status} {page.text[:500]}"
        return found[0]

    def end_of(self, job_id: int, at: str = "/status", seconds: float = 20) -> dict[str, Any]:
        """The job's status at this place of the site, once it is final."""

        def ended() -> dict[str, Any] | None:
            status = self.ask(f"{at}/{job_id}").json()
            return status if Status(status["status"]).is_final else None

        return wait_until(ended, seconds)  # type: ignore[return-value]


def multipart(book: str, file: str = "") -> bytes:
    """A form with the field ``book`` as a browser's FormData sends it, the boundary is "b"; of a file of this name."""
    name = f'name="book"; filename="{file}"' if file else 'name="book"'
    return f"--b\r\nContent-Disposition: form-data; {name}\r\n\r\n{book}\r\n--b--\r\n".encode()
