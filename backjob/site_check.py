"""Check that the app accepts the Host and scheme of jobs that are started outside of a request.

Calls the app in this process with a GET of a path that it hardly has, so that its middleware answers and no view does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from .config import Config
from .findings import Finding
from .job_environ import restore_environ
from .no_job import NoJob
from .request import make_request
from .response import make_server_environ

_PATH = "/backjob-check"
_REFUSALS = (400, 421)
_LOOPBACK = ("127.", "localhost", "[::1]")


def find_site_problem(app: Callable[..., Iterable[bytes]], config: Config) -> Iterator[Finding]:
    """Yield a finding if the app refuses such a job for its Host or scheme."""
    mount = config.site.mount if config.site else ""
    request = make_request(None, config, f"{mount}{_PATH}", as_user=False, mount=mount)
    environ = restore_environ(make_server_environ(), request, config)
    status, location = _ask(app, {**environ, config.environ_key: NoJob()})
    host = request.headers.get("HTTP_HOST", "")
    if status in _REFUSALS:
        text = f"The app answers {status} to a job that is started outside of a request, with the Host {host}"
    elif 300 <= status < 400 and _leads_to_another_site(location, request.scheme, host):
        text = f"The app redirects a job that is started outside of a request, with {request.scheme}://{host}"
    else:
        return
    remedy = "Correct site_url=, or let the app allow it" if config.site else 'Set site_url="https://…"'
    yield Finding("site-url", text, remedy)


def find_local_site(config: Config) -> Iterator[Finding]:
    """Yield a finding if links that such a job writes lead to the host on which it runs."""
    address = config.address
    if config.site is None and address is not None and address.authority.startswith(_LOOPBACK):
        text = f"Links made by jobs that are started outside of a request lead to {address.authority}"
        yield Finding("site-url", text, 'Set site_url="https://…" to the URL at which people reach the app')


def _ask(app: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> tuple[int, str]:
    """Return the status and the Location of the app's answer; (0, "") if it raises an exception."""
    answer: dict[str, Any] = {"status": "0", "headers": []}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        answer.update(status=status, headers=headers)
        return lambda chunk: None

    try:
        chunks = app(environ, start_response)
        try:
            for _ in chunks:
                pass
        finally:
            getattr(chunks, "close", lambda: None)()
        location = next((value for name, value in answer["headers"] if name.lower() == "location"), "")
        return int(answer["status"][:3]), location
    except Exception:  # noqa: BLE001 - a failure of the app says nothing about its site
        return 0, ""


def _leads_to_another_site(location: str, scheme: str, host: str) -> bool:
    try:
        parts = urlsplit(location)
    except ValueError:
        return False
    return bool(parts.netloc) and (parts.scheme or scheme, parts.netloc) != (scheme, host)
