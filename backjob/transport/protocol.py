"""What our own middleware answers to a request of ours, and how the one who asked knows that it was ours."""

from __future__ import annotations

from backjob._socket import Answer
from backjob.keyring import Token

TOKEN_HEADER = "Backjob-Token"  # noqa: S105 - its name, no secret
PROOF_HEADER = "Backjob-Proof"

OUTCOMES = {
    "monitor": {202},
    "here": {200, 403},
    "ended": {200},
    "full": {409},
    "refused": {409},
    "version": {409},
    "unknown": {410},
    "away": {503},
    "stale": {403},
}
"""What it may answer, and with which status."""


def is_proof(answer: Answer, token: Token, outcome: str) -> bool:
    """Is this the answer that only our own middleware can give to the request with this token?"""
    return answer.status in OUTCOMES[outcome.partition(" ")[0]] and token.prove(outcome).encode() in answer.raw


def prove_app(app: str) -> str:
    """The outcome of a probe that reached this very app."""
    return f"here {app}".rstrip()
