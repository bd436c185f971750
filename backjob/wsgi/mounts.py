"""The path at which the app is mounted, and how a job's path splits there into SCRIPT_NAME and PATH_INFO (PEP 3333)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from backjob.errors import OutsideMount
from backjob.messages import plain
from backjob.model.job import JobRequest

PATH_CHARACTERS = "/:@!$&'()*+,;=~"
"""Characters of a path that are not percent-encoded (RFC 3986, section 3.3), beside letters, digits and "-._"."""
_QUERY_CHARACTERS = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")
_SHORT_PATH = 200
_DOT_SEGMENTS = frozenset({b".", b".."})


def find_mount(environ: Mapping[str, Any], path_info: str) -> str:
    """Return the SCRIPT_NAME with which a request came, whatever an app within has changed. It had this PATH_INFO.

    An app that mounts others moves a part of the path over to SCRIPT_NAME. That part belongs to the path of the job,
    which passes the same app. A middleware that trusts a proxy adds a prefix, which belongs to the mount.
    """
    script_name: str = environ.get("SCRIPT_NAME", "")
    path = (script_name + environ.get("PATH_INFO", "")).rstrip("/")
    path_info = path_info.rstrip("/")
    return path.removesuffix(path_info) if path.endswith(path_info) else script_name


def split_path(target: str, mount: str | None) -> tuple[str | None, str]:
    """Return SCRIPT_NAME and PATH_INFO of a target. Raises OutsideMount for a target outside of this app."""
    path = unquote_to_bytes(target.partition("?")[0]).decode("latin-1")
    if mount is None:
        return None, path
    script_name = mount.rstrip("/")
    if path != script_name and not path.startswith(script_name + "/"):
        shown, mounted_at = target.partition("?")[0], quote_path(script_name)  # the query may hold a user's input
        text = (
            f"target {shown[:_SHORT_PATH]!r} is outside of this app, which is mounted at {mounted_at!r}: write targets "
            f"as a browser asks for them, such as {(mounted_at + shown)[:_SHORT_PATH]!r}"
        )
        raise OutsideMount(plain(text))
    return script_name, path[len(script_name) :]


def check_mount(request: JobRequest, mount: str) -> None:
    """Raise OutsideMount if the job was started outside of a request, and its target is not under this mount."""
    if request.script_name is None:
        split_path(request.target, mount)


def check_segments(target: str) -> None:
    """Raise ValueError for a target with a segment "." or "..", percent-encoded or not (RFC 3986, section 5.2.4).

    Some servers and proxies resolve them, and some of those read %2F and a backslash as a slash: the job would run at
    another path than the one that the application has checked. Others drop a semicolon and what follows it first.
    """
    path = unquote_to_bytes(target.partition("?")[0])
    if _DOT_SEGMENTS.intersection(each.partition(b";")[0] for each in re.split(rb"[/\\]", path)):
        shown = target.partition("?")[0][:_SHORT_PATH]
        raise ValueError(f"target {shown!r} has a segment '.' or '..': write the path without it")


def quote_path(path: str) -> str:
    """Return a path of an environ (PEP 3333: bytes as Latin-1) as it is written in a target."""
    return quote(path.encode("latin-1"), safe=PATH_CHARACTERS)


def quote_query(query: str) -> str:
    """Return a query of an environ as it is written in a target. Some servers let clients send bytes beyond ASCII."""
    return quote(query.encode("latin-1"), safe=_QUERY_CHARACTERS)


def mount_target(request: JobRequest) -> str:
    """Return the target of the monitor's request: the mount, or if that is unknown, the beginning of the job's path."""
    if request.script_name is None:
        path = request.path
        return path if len(path) <= _SHORT_PATH else path[:_SHORT_PATH].rpartition("/")[0] + "/"
    return quote_path(request.script_name) + "/"
