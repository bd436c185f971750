"""The workshop with a shop and a maintenance page in front of it, which note what they answer in a file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import workshop
from werkzeug.middleware.dispatcher import DispatcherMiddleware

ANSWERED, MAINTENANCE = Path("answered.txt"), Path("maintenance")


def answer(environ: dict[str, Any], start_response: Any, status: str) -> Iterable[bytes]:
    """Note an internal request, and answer it as any other one."""
    size = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    line = f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}{environ['PATH_INFO']} {size}\n"
    if "HTTP_BACKJOB_TOKEN" in environ:
        with ANSWERED.open("ab", buffering=0) as file:
            os.write(file.fileno(), line.encode())
    start_response(status, [("Content-Type", "text/html"), ("Content-Length", "0"), ("Location", "/maintenance")])
    return [b""]


def shop(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Another app: its status is a part of the path."""
    return answer(environ, start_response, f"{environ['PATH_INFO'][1:4]} Whatever")


site = DispatcherMiddleware(workshop.application, {"/shop": shop})


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Everything but the status of a job is answered by the maintenance page as long as its file is there."""
    if MAINTENANCE.exists() and environ["PATH_INFO"] != "/status":
        return answer(environ, start_response, MAINTENANCE.read_text())
    return site(environ, start_response)
