"""What an exchange with the own address that did not go as it should means, and what setting mends it.

Knows answers and addresses; sends nothing and decides nothing about a job. A failed launch and a check say the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from ._socket import Answer
from .address import Address
from .errors import LaunchError

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
    410: "the job is not known there: set connect= to the app's own address, or give both one table_name and one"
    " database, or cache (the memory of a process is no other's)",
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
    421: "another app with BackJob got the request, for a part of the path is taken away on the way to this one: set "
    "connect= to where that is done",
    403: "an app with BackJob, but with another key: give all processes the same key= (or $BACKJOB_KEY, or key file), "
    "and wrap the app in one BackJob only",
    503: "BackJob is there, but its job database or its key can't be used: its log says why",
}
_LOGIN = re.compile(r"(?<![a-z])(?:(log|sign)[-_]?in|o?auth(orize|enticate)?|sso|saml)(?![a-z])", re.IGNORECASE)
_PLAIN_TO_TLS = (b"HTTPS port", b"SSL-enabled server port")
"""What nginx and Apache say of it, in an answer of status 400."""
_TLS_TO_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
_SPEAKS_TLS = 'it speaks TLS: set connect="https://…"'
_BRING_HTTPS = "wrap what does that in BackJob, or set connect_headers={'X-Forwarded-Proto': 'https'}"
_CERTIFICATE_DEMANDS = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE", "SSLV3_ALERT_BAD_CERTIFICATE"}
    | {"SSLV3_ALERT_NO_CERTIFICATE", "TLSV1_ALERT_ACCESS_DENIED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"}
)
"""TLS alerts of servers that require a client certificate: OpenSSL's in TLS 1.3 and 1.2, and those of others."""
_NO_CERTIFICATE = b"No required SSL certificate was sent"
"""Message of nginx for a missing client certificate, in an answer of status 400."""
_LET_WRITE = (
    "the user of this process must be able to write to the socket and to enter its folder. With systemd set "
    "SocketGroup= and SocketMode=0660 in the socket's unit, else the server's umask (gunicorn: --umask 007) and group"
)
_SECOND_ADDRESS = (
    "asks for a client certificate, and self-requests have none. Start a second server of the app, on the loopback and "
    'without TLS, and set connect="http://127.0.0.1:…" to it'
)
_CERTIFICATE_REMEDIES = {
    9: "is this host's clock right?",
    10: "it has expired, renew it",
    62: "connect= must name a host that is in it, ca_file= alone does not mend that",
    64: "connect= must name an address that is in it, ca_file= alone does not mend that",
}
"""By OpenSSL's X509_V_ERR numbers. Any other is an authority that nobody here knows."""


_PLACES = (
    (re.compile(r" \(Server: .*?\)(?=: |\. |; |$)"), ""),
    (re.compile(r"redirects to \S+?(?=: )"), "redirects elsewhere"),
    (re.compile(r", it says (?:'[^']*'|\"[^\"]*\")"), ""),
    (re.compile(r"can't be verified \(.*?\)(?=: )"), "can't be verified"),
    (re.compile(r"the name \S+ does not resolve"), "its name does not resolve"),
    # After a quotation mark it is an example in a remedy.
    (re.compile(r"(?<![\"'\w])(?:https?|uwsgi)(?:\+unix)?:[^\s,;]*[^\s,;:.?)]"), "the app's own address"),
    (re.compile(r"(?<![\"'\w])unix:[^\s,;]*[^\s,;:.?)]"), "the app's own address"),
)
"""Parts of an explanation that reveal the site's servers, and their replacements in status texts."""


class Silence(LaunchError):
    """An address takes a request and does not answer."""


def explain(answer: Answer, address: Address) -> LaunchError:
    """What an answer that is not ours means, and what setting mends it."""
    if answer.status is None and answer.error and _demands_certificate(answer.error):
        return explain_failure(answer.error, address)
    if answer.status is None:
        return _explain_no_http(bytes(answer.raw), address)
    server = re.sub(r"[^\x20-\x7e]", "", answer.header("Server"))[:80] or "a server that does not say its name"
    status = answer.status
    is_own = answer.body.startswith(SIGNATURE.encode())
    remedy = _REMEDIES.get(status, _lead_around(address))
    if 300 <= status < 400:
        remedy = _explain_redirect(answer.header("Location"), address)
    elif is_own and status in _OWN_REMEDIES:
        remedy = _OWN_REMEDIES[status]
    elif status < 300:
        remedy = (
            f"another program, or this app with another key or without BackJob: {_correct(address)} to the app's own "
            "address"
        )
    elif status == 400 and any(words in answer.raw for words in _PLAIN_TO_TLS):
        remedy = _SPEAKS_TLS
    elif status == 400 and _NO_CERTIFICATE in answer.raw:
        remedy = f"it {_SECOND_ADDRESS}"
    return LaunchError(
        f"{address} answered {status} (Server: {server}): {remedy}",
        is_final=status not in _PASSING,
        is_of_job=is_own and status in (410, 421),
    )


def explain_path(answer: Answer, address: Address, method: str, path: str, *, is_answered: bool = False) -> LaunchError:
    """Explain an answer at one path of an address where BackJob answers at others.

    ``is_answered``: it was the job's own request, which has effects: it may have been acted on, and is not repeated.
    """
    failure = explain(answer, address)
    if not answer.raw:
        return LaunchError(str(failure), is_final=failure.is_final, is_of_job=True)
    found = str(failure)
    if answer.status is not None and (answer.status < 300 or answer.status in (404, 405)):
        found = found.partition("): ")[0] + ")"  # not what else may answer at this address: BackJob does
    for separator in (", ", ": "):
        found = found.removesuffix(separator + _lead_around(address))
    text = f"something in front of BackJob answers {path[:200]}: put BackJob outside of it. To {method} {found}"
    if is_answered:
        text = _add_sentence(text, "The request is not sent again, because it may have been acted on")
    return LaunchError(text, is_final=is_answered or failure.is_final, is_of_job=True)


def explain_post(answer: Answer, address: Address) -> LaunchError:
    """Explain an answer to a POST to the mount, where BackJob answers."""
    failure = explain(answer, address)
    text = f"a POST does not reach BackJob: {failure}"
    return LaunchError(text, is_final=failure.is_final, is_of_job=failure.is_of_job)


def hint_at_mount(failure: LaunchError) -> LaunchError:
    """Add what to check for a job that was started outside of a request, by a process that does not know the mount."""
    hint = "A target that is given outside of a request begins with the path at which the app is mounted"
    text = _add_sentence(str(failure), hint)
    return LaunchError(text, is_final=failure.is_final, is_of_job=failure.is_of_job)


def explain_failure(error: OSError, address: Address) -> LaunchError:
    """What an exchange that failed half-way means."""
    what = error.strerror or str(error) or type(error).__name__
    name = type(error).__name__
    if name == "SSLCertVerificationError":
        reason = getattr(error, "verify_message", what)
        remedy = _CERTIFICATE_REMEDIES.get(getattr(error, "verify_code", 0), "set ca_file= to its authority's own")
        return LaunchError(f"{address} has a certificate that can't be verified ({reason}): {remedy}", is_final=True)
    if getattr(error, "reason", None) in _TLS_TO_PLAIN:
        remedy = f'{_correct(address)} to "http://…"'
        return LaunchError(f"{address} does not speak TLS ({error.reason}): {remedy}", is_final=True)  # type: ignore[attr-defined]
    if _demands_certificate(error):
        reason = getattr(error, "reason", what)
        probably = "" if "CERTIFICATE_REQUIRED" in reason else "probably "  # TLS 1.2 has no alert of its own for it
        text = f"{address} refuses the TLS connection ({reason}): it {probably}{_SECOND_ADDRESS}"
        return LaunchError(text, is_final=True, is_denied=True)
    remedy = _explain_no_connection(error, address)
    is_denied = isinstance(error, PermissionError) and bool(address.unix)
    text = f"{address} can't be reached ({name}: {what}): {remedy}"
    return LaunchError(text, is_final=is_denied, is_denied=is_denied)


def _demands_certificate(error: OSError) -> bool:
    return getattr(error, "reason", None) in _CERTIFICATE_DEMANDS


def explain_silence(address: Address, seconds: float) -> Silence:
    """What it means that a connection was taken, and no answer came for so long."""
    return Silence(
        f"{address} is busy: it takes a request and does not answer within {seconds:.1f} s. All its slots are taken, "
        f"or it is no web server: then {_correct(address)}"
    )


def explain_queue(address: Address, seconds: float) -> str:
    """Explain why the jobs wait while requests are not answered: a long queue and a dead address look alike."""
    return f"Waiting for {address}, which has not answered for {seconds:.0f} s: all its slots are busy, or it hangs"


def explain_loss(address: Address, seconds: float) -> Silence:
    """Explain the failure of a request that is not answered while later ones are."""
    return Silence(
        f"{address} has not answered for {seconds:.0f} s, and answers later requests: something between has lost this "
        "one, or holds it back"
    )


def hide_places(text: str) -> str:
    """Return an explanation for status texts, without addresses, host names and names of servers."""
    for pattern, neutral in _PLACES:
        text = pattern.sub(neutral, text)
    return text


def _add_sentence(text: str, sentence: str) -> str:
    """Add a sentence to a text that ends without a full stop, or with a question mark."""
    return f"{text} {sentence}" if text.endswith("?") else f"{text}. {sentence}"


def sum_up(failures: Sequence[LaunchError]) -> LaunchError:
    """What was met at each of the addresses that were tried."""
    # The server refuses this process, so the failures at other addresses don't matter.
    failures = [failure for failure in failures if failure.is_denied] or failures
    tried = "; ".join(dict.fromkeys(str(failure) for failure in failures)).replace("?; ", "? ")
    is_of_job = any(failure.is_of_job for failure in failures)
    is_final, is_denied = all(each.is_final for each in failures), all(each.is_denied for each in failures)
    return LaunchError(tried, is_final=is_final, is_of_job=is_of_job, is_denied=is_denied)


def _correct(address: Address) -> str:
    return "correct connect=" if address.found == "connect=" else "set connect="


def _lead_around(address: Address) -> str:
    return f"{_correct(address)} to the address where the app itself answers"


def _explain_no_http(raw: bytes, address: Address) -> LaunchError:
    if len(raw) > Answer.LIMIT:
        return LaunchError(f"{address} answers without an end: {_correct(address)}", is_final=True)
    if raw[:1] == b"\x15":
        return LaunchError(f"{address} does not answer in HTTP: {_SPEAKS_TLS}", is_final=True)
    if raw and not raw.startswith(b"HTTP/1."):
        # A greeting, such as an SSH server's, names the program that is there.
        says = re.sub(rb"[^\x20-\x7e]", b"", raw)[:40].decode("ascii")
        return LaunchError(f"{address} does not answer in HTTP, it says {says!r}: {_correct(address)}", is_final=True)
    hint = ": does it speak TLS, or a protocol such as uwsgi?" if not raw and not address.tls else ""
    return LaunchError(f"{address} closed the connection without a whole answer{hint}")


def _explain_redirect(location: str, address: Address) -> str:
    """Something before BackJob redirects: what it may be after, without the query, which may tell of a user."""
    place = re.sub(r"[^\x21-\x7e]|(?<=//)[^/]*@", "", location)
    place = re.split(r"[?#]", place)[0][:200]
    around = _lead_around(address)
    hints = ["it looks like a login"] if _LOGIN.search(place) else []
    if place.startswith("https://") and not address.tls:
        hints += ["it wants https", _BRING_HTTPS]
    elif not hints and _host_of(place) not in ("", address.host, "localhost"):
        hints = ["that is another host"]
    return f"something before BackJob redirects to {place or 'elsewhere'}: {', '.join([*hints, around])}"


def _host_of(place: str) -> str:
    try:
        return urlsplit(place).hostname or ""
    except ValueError:
        return ""


def _explain_no_connection(error: OSError, address: Address) -> str:
    otherwise = f"Else {_correct(address)}"
    if isinstance(error, FileNotFoundError):
        return f"there is no such socket. Is the server up? {otherwise}"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens there. Is the server up? {otherwise}"
    if isinstance(error, PermissionError):
        return f"{_LET_WRITE if address.unix else 'a firewall of this host forbids it'}. {otherwise}"
    if type(error).__name__ == "gaierror":
        return f"the name {address.host} does not resolve here: {_correct(address)}"
    if isinstance(error, TimeoutError):
        return f"its backlog is full, for all its slots are busy, or a firewall drops what comes. {otherwise}"
    if isinstance(error, ConnectionError) or type(error).__name__.startswith("SSL"):
        return f"it ends the connection at once. Is it the app's web server? {otherwise}"
    return f"is the server up? {otherwise}"
