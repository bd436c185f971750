"""The protocol of self-requests: header names, the outcomes that BackJob answers, and the proof that it was BackJob."""

from __future__ import annotations

from enum import Enum

from backjob._socket import Answer
from backjob.keyring import Token

TOKEN_HEADER = "Backjob-Token"  # noqa: S105 - its name, no secret
PROOF_HEADER = "Backjob-Proof"


class WireOutcome(Enum):
    """Outcome of a self-request: the text that its proof is made of, and the status line of the answer.

    Processes of other releases know the same texts: none may change.
    """

    ACCEPTED = "monitor", "202 Accepted"
    """This process launches the job."""
    HERE = "here", "200 OK"
    """BackJob answers at this address and path."""
    STALE_PROBE = "here", "403 Forbidden"
    """The same, to a probe that is too old or was sent before."""
    STALE_CHECK = "stale", "403 Forbidden"
    """A check that is too old, or was sent before."""
    ENDED = "ended", "200 OK"
    """The attempt has ended, and its outcome is in the record."""
    FORKED = "forked", "409 Conflict"
    """A child of a fork returned from the app: the parent runs the job."""
    FULL = "full", "409 Conflict"
    """No slot for jobs is free."""
    REFUSED = "refused", "409 Conflict"
    """The job is not waiting any more, or can't run."""
    OTHER_VERSION = "version", "409 Conflict"
    """Only a process with another ``app_version`` runs the job."""
    UNKNOWN = "unknown", "410 Gone"
    """No record of this application has this id, attempt and sealed request."""
    UNAVAILABLE = "away", "503 Service Unavailable"
    """The store can't be used."""

    def __init__(self, text: str, status: str) -> None:
        self.text = text
        self.status = status

    def is_proven_by(self, answer: Answer, token: Token) -> bool:
        """Return whether only BackJob can have given this answer to the request with this token."""
        return answer.status == int(self.status[:3]) and token.prove(self.text).encode() in answer.raw


def is_here(answer: Answer, token: Token, app: str) -> bool:
    """Return whether this very app proved that it answers, also to a probe that came too late."""
    return answer.status in (200, 403) and token.prove(name_app_here(app)).encode() in answer.raw


def name_app_here(app: str) -> str:
    """Return the text that proves that this very app answers a probe. "": any app with the key."""
    return f"{WireOutcome.HERE.text} {app}".rstrip()


def is_taken(answer: Answer, token: Token) -> bool:
    """Return whether BackJob answered a monitor's request: it launches the job now, or has done so before.

    A proxy may send a request twice.
    """
    return any(outcome.is_proven_by(answer, token) for outcome in (WireOutcome.ACCEPTED, WireOutcome.REFUSED))
