"""What an exchange with the own address that did not go as it should means, and what setting mends it.

Knows answers and addresses; sends nothing and decides nothing about a job. A failed launch and a check say the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from backjob._socket import Answer
from backjob.errors import LaunchError
from backjob.messages import Message, Part, compose, detail, join, plain
from backjob.model.address import Address

from .connection_failures import SECOND_ADDRESS, demands_certificate, explain_failure, name_setting

SIGNATURE = "backjob: "
"""How our middleware's short answers begin, with a proof or without. That it is there is no secret: whoever sends any
token sees it. It proves nothing either: only words depend on it."""

_REMEDIES = {
    400: "it does not take the request: does something there allow certain hosts only?",
    401: "a password is asked for there: set connect_headers={'Authorization': …}, or let the app's own address pass",
    403: "access is refused there: let the app's own address pass, or give all processes the same key",
    404: "no BackJob answers there: another app, this one under another path, or connect= leads elsewhere",
    405: "no BackJob answers there: another app, or something before BackJob that takes no POST",
    407: "it is a proxy that asks for a password: set connect= to the address where the app itself answers",
    410: "the job is not known there, or is another app's: set connect= to the app's own address (or to where a part of"
    " its path is taken away), or give both one table_name and one database, or cache (the memory of a process is no"
    " other's)",
    413: "the job's body is too large for it: raise its limit (nginx: client_max_body_size)",
    414: "the job's target is too long for it",
    421: 'it serves several sites: set connect="https://…" with the name of this one, and ca_file= if need be',
    429: "it limits how many requests come: let the app's own address pass",
    431: "the request's head is too large for it: shorten user_agent or connect_headers",
    500: "it broke before BackJob could answer: its log says why",
    502: "a proxy that does not reach the app behind it: is the app up?",
    503: "a proxy without an app behind it just now, or an app that is being served: is it up?",
    504: "a proxy that gave up on the app behind it: all its slots are busy, or the app is stuck",
}
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others a moment later."""
_OWN_REMEDIES = {
    200: "another app with BackJob answers there: set connect= to this app's own address",
    403: "an app with BackJob, but with another key: give all processes the same key= (or $BACKJOB_KEY, or key file), "
    "and wrap the app in one BackJob only",
    503: "BackJob is there, but its job database or its key can't be used: its log says why",
}
_LOGIN = re.compile(r"(?<![a-z])(?:(log|sign)[-_]?in|o?auth(orize|enticate)?|sso|saml)(?![a-z])", re.IGNORECASE)
_PLAIN_TO_TLS = (b"HTTPS port", b"SSL-enabled server port")
"""What nginx and Apache say of it, in an answer of status 400."""
_SPEAKS_TLS = 'it speaks TLS: set connect="https://…"'
_BRING_HTTPS = "wrap what does that in BackJob, or set connect_headers={'X-Forwarded-Proto': 'https'}"
_NO_CERTIFICATE = b"No required SSL certificate was sent"
"""Message of nginx for a missing client certificate, in an answer of status 400."""


def explain(answer: Answer, address: Address) -> LaunchError:
    """What an answer that is not ours means, and what setting mends it."""
    status = answer.status
    if status is None and answer.error and demands_certificate(answer.error):
        return explain_failure(answer.error, address)
    if status is None:
        return _explain_no_http(bytes(answer.raw), address)
    text = join(": ", [_describe(answer, address), *_find_remedies(answer, status, address, [_lead_around(address)])])
    is_of_job = _is_own(answer) and status == 410
    return LaunchError(text, is_final=status not in _PASSING, is_of_job=is_of_job)


def explain_path(answer: Answer, address: Address, method: str, path: str, *, is_answered: bool = False) -> LaunchError:
    """Explain an answer at one path of an address where BackJob answers at others.

    ``is_answered``: it was the job's own request, which has effects: it may have been acted on, and is not repeated.
    """
    failure, status = explain(answer, address), answer.status
    if not answer.raw:
        return LaunchError(failure, is_final=failure.is_final, is_of_job=True)
    found: Part = failure
    if status is not None:
        # BackJob answers at this address: remedies for another program don't apply.
        is_clear = status < 300 or status in (404, 405)
        remedies = [] if is_clear else _find_remedies(answer, status, address, [])
        found = join(": ", [_describe(answer, address), *remedies])
    text = compose(
        "something in front of BackJob answers {path}: put BackJob outside of it. To {method} {found}",
        path=plain(path[:200]),
        method=plain(method),
        found=found,
    )
    if is_answered:
        text = join(". ", [text, plain("The request is not sent again, because it may have been acted on")])
    return LaunchError(text, is_final=is_answered or failure.is_final, is_of_job=True)


def explain_post(answer: Answer, address: Address) -> LaunchError:
    """Explain an answer to a POST to the mount, where BackJob answers."""
    failure = explain(answer, address)
    text = compose("a POST does not reach BackJob: {failure}", failure=failure)
    return LaunchError(text, is_final=failure.is_final, is_of_job=failure.is_of_job)


def hint_at_mount(failure: LaunchError) -> LaunchError:
    """Add what to check for a job that was started outside of a request, by a process that does not know the mount."""
    hint = plain("A target that is given outside of a request begins with the path at which the app is mounted")
    return LaunchError(join(". ", [failure, hint]), is_final=failure.is_final, is_of_job=failure.is_of_job)


def sum_up(failures: Sequence[LaunchError]) -> LaunchError:
    """What was met at each of the addresses that were tried."""
    # The server refuses this process, so the failures at other addresses don't matter.
    failures = [failure for failure in failures if failure.is_denied] or failures
    is_of_job = any(failure.is_of_job for failure in failures)
    is_final, is_denied = all(each.is_final for each in failures), all(each.is_denied for each in failures)
    return LaunchError(join("; ", failures), is_final=is_final, is_of_job=is_of_job, is_denied=is_denied)


def _lead_around(address: Address) -> Message:
    return compose("{correct} to the address where the app itself answers", correct=name_setting(address))


def _describe(answer: Answer, address: Address) -> Message:
    server = re.sub(r"[^\x20-\x7e]", "", answer.header("Server"))[:80] or "a server that does not say its name"
    status, hidden = answer.status or 0, detail(f" (Server: {server})")
    return compose("{address} answered {status}{server}", address=address, status=status, server=hidden)


def _is_own(answer: Answer) -> bool:
    return answer.body.startswith(SIGNATURE.encode())


def _find_remedies(answer: Answer, status: int, address: Address, around: list[Message]) -> list[Message]:
    """Return the meaning of an answer, with the setting that mends it. ``around``: result if no remedy is known."""
    if 300 <= status < 400:
        return [_explain_redirect(answer.header("Location"), address, around)]
    if _is_own(answer) and status in _OWN_REMEDIES:
        return [plain(_OWN_REMEDIES[status])]
    if status < 300:
        another = "another program, or this app with another key or without BackJob: {correct} to the app's own address"
        return [compose(another, correct=name_setting(address))]
    if status == 400 and any(words in answer.raw for words in _PLAIN_TO_TLS):
        return [plain(_SPEAKS_TLS)]
    if status == 400 and _NO_CERTIFICATE in answer.raw:
        return [plain(f"it {SECOND_ADDRESS}")]
    return [plain(_REMEDIES[status])] if status in _REMEDIES else around


def _explain_no_http(raw: bytes, address: Address) -> LaunchError:
    correct = name_setting(address)
    if len(raw) > Answer.LIMIT:
        return LaunchError(
            compose("{address} answers without an end: {correct}", address=address, correct=correct), is_final=True
        )
    if raw[:1] == b"\x15":
        remedy = plain(_SPEAKS_TLS)
        return LaunchError(
            compose("{address} does not answer in HTTP: {remedy}", address=address, remedy=remedy), is_final=True
        )
    if raw and not raw.startswith(b"HTTP/1."):
        # A greeting, such as an SSH server's, names the program that is there.
        says = detail(", it says " + repr(re.sub(rb"[^\x20-\x7e]", b"", raw)[:40].decode("ascii")))
        text = compose(
            "{address} does not answer in HTTP{says}: {correct}", address=address, says=says, correct=correct
        )
        return LaunchError(text, is_final=True)
    hint = ": does it speak TLS, or a protocol such as uwsgi?" if not raw and not address.tls else ""
    return LaunchError(
        compose("{address} closed the connection without a whole answer{hint}", address=address, hint=plain(hint))
    )


def _explain_redirect(location: str, address: Address, around: list[Message]) -> Message:
    """Something before BackJob redirects: what it may be after, without the query, which may tell of a user."""
    place = re.sub(r"[^\x21-\x7e]|(?<=//)[^/]*@", "", location)
    place = re.split(r"[?#]", place)[0][:200]
    hints = ["it looks like a login"] if _LOGIN.search(place) else []
    if place.startswith("https://") and not address.tls:
        hints += ["it wants https", _BRING_HTTPS]
    elif not hints and _host_of(place) not in ("", address.host, "localhost"):
        hints = ["that is another host"]
    elsewhere = Message(f"to {place}", "elsewhere") if place else plain("to elsewhere")
    redirects = compose("something before BackJob redirects {elsewhere}", elsewhere=elsewhere)
    advice = join(", ", [*map(plain, hints), *around])
    return join(": ", [redirects, advice] if advice.public else [redirects])


def _host_of(place: str) -> str:
    try:
        return urlsplit(place).hostname or ""
    except ValueError:
        return ""
