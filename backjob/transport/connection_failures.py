"""Explanations of self-requests without a connection or without an answer in time, each with a remedy.

Knows errors and addresses. Sends nothing and decides nothing about a job.
"""

from __future__ import annotations

from backjob.errors import LaunchError
from backjob.messages import Message, compose, detail, plain
from backjob.model.address import CONNECT, Address

_TLS_TO_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
_CERTIFICATE_DEMANDS = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE", "SSLV3_ALERT_BAD_CERTIFICATE"}
    | {"SSLV3_ALERT_NO_CERTIFICATE", "TLSV1_ALERT_ACCESS_DENIED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN"}
)
"""TLS alerts of servers that require a client certificate, by OpenSSL in TLS 1.3 and 1.2 and by others."""
_LET_WRITE = (
    "the user of this process must be able to write to the socket and to enter its folder. With systemd set "
    "SocketGroup= and SocketMode=0660 in the socket's unit, else the server's umask (gunicorn: --umask 007) and group"
)
SECOND_ADDRESS = (
    "asks for a client certificate, which self-requests do not have. Start a second server of the app, on the loopback "
    'and without TLS, and set connect="http://127.0.0.1:…" to it'
)
_SET_AUTHORITY = "set ca_file= to its authority's own"
_CERTIFICATE_REMEDIES = {
    9: "is this host's clock right?",
    10: "it has expired, renew it",
    62: "connect= must name a host that is in it, ca_file= alone is not enough",
    64: "connect= must name an address that is in it, ca_file= alone is not enough",
}
"""By OpenSSL's X509_V_ERR numbers. Any other number means an unknown authority."""


class NoAnswer(LaunchError):
    """An address accepted a request and did not answer it."""


def explain_failure(error: OSError, address: Address) -> LaunchError:
    """Return the explanation of an exchange that failed before its end."""
    name = type(error).__name__
    words = error.strerror or str(error) or name
    reason = getattr(error, "reason", None) or words
    is_denied = demands_certificate(error) or (isinstance(error, PermissionError) and bool(address.unix))
    is_final = True
    if name == "SSLCertVerificationError":
        template = "{address} has a certificate that can't be verified{reason}: {remedy}"
        shown = detail(f" ({getattr(error, 'verify_message', words)})")
        remedy = plain(_CERTIFICATE_REMEDIES.get(getattr(error, "verify_code", 0), _SET_AUTHORITY))
    elif reason in _TLS_TO_PLAIN:
        template, shown = '{address} does not speak TLS ({reason}): {remedy} to "http://…"', plain(reason)
        remedy = name_setting(address)
    elif demands_certificate(error):
        template, shown = "{address} refuses the TLS connection ({reason}): it {remedy}", plain(reason)
        probably = "" if "CERTIFICATE_REQUIRED" in reason else "probably "  # TLS 1.2 has no alert of its own for it
        remedy = plain(f"{probably}{SECOND_ADDRESS}")
    else:
        template, shown = f"{{address}} can't be reached ({name}{{reason}}): {{remedy}}", detail(f": {words}")
        remedy, is_final = _explain_no_connection(error, address), is_denied
    text = compose(template, address=address, reason=shown, remedy=remedy)
    return LaunchError(text, is_final=is_final, is_denied=is_denied)


def demands_certificate(error: OSError) -> bool:
    """Return whether the server has ended the TLS connection because it requires a client certificate."""
    return getattr(error, "reason", None) in _CERTIFICATE_DEMANDS


def explain_no_answer(address: Address, seconds: float) -> NoAnswer:
    """Return the explanation of a connection that was accepted, but not answered within ``seconds``."""
    text = (
        "{address} is busy: it takes a request and does not answer within {seconds:.1f} s. All its slots are taken, or "
        "it is no web server: then {correct}"
    )
    return NoAnswer(compose(text, address=address, seconds=seconds, correct=name_setting(address)))


def describe_queue(address: Address, seconds: float) -> Message:
    """Return why jobs wait while requests are not answered. A long queue and a dead address look alike."""
    text = "Waiting for {address}, which has not answered for {seconds:.0f} s: all its slots are busy, or it hangs"
    return compose(text, address=address, seconds=seconds)


def explain_lost_request(address: Address, seconds: float) -> NoAnswer:
    """Return the explanation of a request that is not answered although later ones are."""
    text = (
        "{address} has not answered for {seconds:.0f} s, and answers later requests: something between has lost this "
        "one, or holds it back"
    )
    return NoAnswer(compose(text, address=address, seconds=seconds))


def name_setting(address: Address) -> Message:
    """Return the advice to set or correct ``connect=``."""
    return plain("correct connect=" if address.found == CONNECT else "set connect=")


def _explain_no_connection(error: OSError, address: Address) -> Message:
    if type(error).__name__ == "gaierror":
        name = Message(f"the name {address.host}", "its name")
        return compose("{name} does not resolve here: {correct}", name=name, correct=name_setting(address))
    if isinstance(error, FileNotFoundError):
        found = "there is no such socket. Is the server up?"
    elif isinstance(error, ConnectionRefusedError):
        found = "nothing listens there. Is the server up?"
    elif isinstance(error, PermissionError):
        found = f"{_LET_WRITE if address.unix else 'a firewall of this host forbids it'}."
    elif isinstance(error, TimeoutError):
        found = "its backlog is full because all its slots are busy, or a firewall drops what comes."
    elif isinstance(error, ConnectionError) or type(error).__name__.startswith("SSL"):
        found = "it ends the connection at once. Is it the app's web server?"
    else:
        found = "is the server up?"
    return compose("{found} Else {correct}", found=plain(found), correct=name_setting(address))
