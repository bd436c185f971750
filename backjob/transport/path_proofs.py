"""Proofs that BackJob itself answers under the path of a job, before a request with effects is sent there.

Something in front of BackJob may answer some paths itself: another app, static files, a firewall. It would act on a
form that was meant for this app. So each path is probed with a GET without query and body, which changes nothing in a
foreign app (RFC 9110, section 9.2.1). A maintenance page may refuse only POSTs, so the mount, which is known to be
BackJob's, is probed with a POST. Knows paths and answers, and no job database.
"""

from __future__ import annotations

import time
from dataclasses import replace

from backjob._socket import Answer
from backjob.errors import LaunchError, OutsideMount
from backjob.keyring import PROBE, Token
from backjob.model.address import Address
from backjob.model.job import JobRequest
from backjob.wsgi.methods import is_safe_method
from backjob.wsgi.mounts import check_mount

from .connection_failures import Silence
from .error_hints import explain, explain_path, explain_post, hint_at_mount
from .protocol import WireOutcome, is_here, is_taken
from .short_tokens import ShortTokens
from .wire import PROBE_PATIENCE, Wire

_END_OF_OUTAGE = 60.0
"""Seconds after the last sight of an outage in which an answer may still come from it."""
_OUTSIDE_STATUSES = frozenset({404, 500})
"""Answers of servers and dispatchers to a path outside of the mount."""
MOST_PATHS = 256
LONGEST_PROOF = 60.0
"""Seconds after which a path is probed again: what is in front of BackJob may be configured anew."""
FRESH = 0.2
"""Seconds for which the last exchange with BackJob shows that nothing, such as a maintenance page, has come between."""
FRESH_FROM_SLOT = 5.0
"""The same for whoever holds a slot, where a probe costs another request through the server's backlog."""

_AHEAD, _AHEAD_POSTED = "~", "~~"
_POST = ""
"""The key of a POST to the mount among the proven paths."""


def mark_ahead(nonce: str, *, is_posted: bool) -> str:
    """Mark the nonce of a monitor's request that goes to the job's own path, and whether a POST has just succeeded."""
    return (_AHEAD_POSTED if is_posted else _AHEAD) + nonce


def is_ahead(nonce: str) -> bool:
    """Was this monitor's request sent to the job's own path?"""
    return nonce.startswith(_AHEAD)


class PathProofs:
    """The paths that have been proven, for one process of the app of this name."""

    def __init__(self, tokens: ShortTokens, wire: Wire, app: str) -> None:
        self.tokens = tokens
        self._wire = wire
        self._app = app
        self._mount = ""
        self._proven: dict[tuple[Address, str], float] = {}
        self._away_at = float("-inf")
        self._heard_at = float("-inf")
        self._posted_at = float("-inf")
        self.takes_posts = True
        """False after a POST to the mount was answered by something else, until one reaches BackJob again."""

    def note_arrival(self, method: str, script_name: str) -> None:
        """Note that a self-request with this method has come in, at BackJob's SCRIPT_NAME."""
        self._mount = script_name
        self._heard_at = time.monotonic()
        if method == "POST":
            self._posted_at, self.takes_posts = self._heard_at, True

    def note_ahead(self, address: Address, path: str, nonce: str) -> None:
        """Note that a request from send_ahead() has come in: BackJob answers under this path."""
        self.add(address, path)
        if nonce.startswith(_AHEAD_POSTED):
            self.add(address, _POST)

    def has_come_ahead(self, address: Address, request: JobRequest) -> bool:
        """Has a request from send_ahead() come in just now? Then the POST that was sent before it is answered too."""
        return time.monotonic() - self._proven.get((address, request.path), float("-inf")) < FRESH

    def add(self, address: Address, path: str) -> None:
        """Note that BackJob has just answered under this path, or a POST to the mount if it is _POST."""
        self._heard_at = time.monotonic()
        self.takes_posts = self.takes_posts or path == _POST
        while len(self._proven) >= MOST_PATHS:
            self._proven.pop(next(iter(self._proven), (address, path)), None)
        self._proven[address, path] = self._heard_at

    def clear(self) -> None:
        """Forget all of them: an answer was not ours."""
        self._proven.clear()
        self._heard_at = self._posted_at = float("-inf")

    def covers(self, address: Address, request: JobRequest, *, from_slot: bool = False) -> bool:
        """Can this request be sent there without a probe?"""
        if _is_safe(request):
            return True
        fresh, now = FRESH_FROM_SLOT if from_slot else FRESH, time.monotonic()
        proven_at = self._proven.get((address, request.path), float("-inf"))
        is_proven = now - proven_at < LONGEST_PROOF and now - self._heard_at < fresh
        return is_proven and self._takes_post(address, request, fresh)

    def _takes_post(self, address: Address, request: JobRequest, fresh: float) -> bool:
        """Return whether a POST has reached BackJob just now. True if the mount is unknown: none can be sent then."""
        posted_at = self._proven.get((address, _POST), float("-inf"))
        if not address.is_recorded:  # what comes in here shows nothing of another app's address
            posted_at = max(posted_at, self._posted_at)
        return request.script_name is None or time.monotonic() - posted_at < fresh

    def prove(self, address: Address, token: Token, request: JobRequest, patience: float) -> None:
        """Check that BackJob answers the path of a request, and a POST to the mount if none has come in just now.

        Raises LaunchError. Its ``is_of_job`` is true if BackJob answers at the mount, but not under this path.
        """
        takes_post = self._takes_post(address, request, FRESH)
        self._prove_path(address, token, request, patience)
        if not takes_post:
            self._prove_post(address, token, request, patience)

    def _prove_path(self, address: Address, token: Token, request: JobRequest, patience: float) -> None:
        """Probe the path. If only the mount answers, probe the path again: an outage may have ended meanwhile."""
        answer = self._probe(address, token, request, patience, request.path)
        if answer is None:
            return
        if not self._answers_at_mount(address, token, request):
            raise explain(answer, address)
        answer = self._probe(address, token, request, patience, request.path)
        if answer is not None:
            raise self._explain_path(answer, address, "GET", request)

    def _prove_post(self, address: Address, token: Token, request: JobRequest, patience: float) -> None:
        """Probe the mount with a POST. Raises LaunchError if something else answers, such as a maintenance page."""
        answer = self._probe(address, token, request, patience)
        if answer is not None:
            self.takes_posts = False
            raise explain_post(answer, address)

    def prove_mount(self, address: Address, token: Token, request: JobRequest, patience: float) -> None:
        """Probe the mount. Raises LaunchError if the app does not answer, or any with the same key as for connect=."""
        answer = self._probe(address, token, request, patience)
        if answer is not None:
            raise explain(answer, address)

    def post_ahead(self, address: Address, token: Token, request: JobRequest, patience: float) -> bool:
        """Send a POST to the mount before send_ahead(). Raises LaunchError if something else answers at once.

        Return whether a POST is known to reach BackJob. If not, it waits in the server's backlog, ahead of the request
        of send_ahead(), or the mount is unknown.
        """
        if request.script_name is None:
            return False
        try:
            if not self._takes_post(address, request, FRESH_FROM_SLOT):
                self._prove_post(address, token, request, patience)
        except Silence:
            return False
        return True

    def send_ahead(self, address: Address, token: Token, request: JobRequest, patience: float) -> None:
        """Send a monitor's request to the job's own path. Raises LaunchError if something else answers at once."""
        try:
            answer = self._wire.ask(address, token, request, patience, request.path)
        except Silence:
            return  # the slot of whoever calls may be the only one: the request is in the server's backlog
        if not is_taken(answer, token):
            raise self._explain(answer, address, token, request, "GET")

    def explain_monitor(self, answer: Answer, address: Address, token: Token, request: JobRequest) -> LaunchError:
        """Explain an answer to the monitor's request that is not ours. It goes to the mount, if that is known."""
        if request.script_name is not None:
            return explain(answer, address)
        return self._explain(answer, address, token, request, "GET")

    def explain_worker(self, answer: Answer, address: Address, token: Token, request: JobRequest) -> LaunchError:
        """Explain an answer to the worker's request that is not our worker's.

        A request with effects that anything has answered is not sent again: it may have been acted on.
        """
        is_own = explain(answer, address).is_of_job or WireOutcome.UNAVAILABLE.is_proven_by(answer, token)
        if answer.raw and not _is_safe(request) and not is_own:
            return explain_path(answer, address, request.method, request.path, is_answered=True)
        return self._explain(answer, address, token, request, request.method)

    def _explain(self, answer: Answer, address: Address, token: Token, request: JobRequest, method: str) -> LaunchError:
        """Tell an outage of the whole address from something that answers this path alone.

        Shortly after an outage was seen, it may have ended just after this answer: then BackJob answers the path too.
        """
        failure = explain(answer, address)
        if failure.is_of_job or WireOutcome.UNAVAILABLE.is_proven_by(answer, token):
            return failure
        if not self._answers_at_mount(address, token, request):
            is_unknown = request.script_name is None and answer.status in _OUTSIDE_STATUSES
            return hint_at_mount(failure) if is_unknown else failure
        was_away = time.monotonic() - self._away_at < _END_OF_OUTAGE
        if was_away and self.answers(address, token, request, request.path):
            return failure
        return self._explain_path(answer, address, method, request)

    def _explain_path(self, answer: Answer, address: Address, method: str, request: JobRequest) -> LaunchError:
        """Explain an answer at a path where BackJob does not answer, although it does at its mount."""
        try:
            check_mount(request, self._mount)
        except OutsideMount as error:
            return LaunchError(error, is_final=True, is_of_job=True)
        return explain_path(answer, address, method, request.path)

    def _answers_at_mount(self, address: Address, token: Token, request: JobRequest) -> bool:
        known = replace(request, script_name=self._mount) if request.script_name is None else request
        is_there = self.answers(address, token, known)
        if not is_there:
            self._away_at = time.monotonic()
        return is_there

    def answers(self, address: Address, token: Token, request: JobRequest, path: str | None = None) -> bool:
        """Does BackJob answer a probe of this path, or without one, of the mount?"""
        try:
            return self._probe(address, token, request, PROBE_PATIENCE, path) is None
        except LaunchError:
            return False

    def _probe(
        self, address: Address, token: Token, request: JobRequest, patience: float, path: str | None = None
    ) -> Answer | None:
        """Probe this path with a GET. If it is None, probe the mount, with a POST if the mount is known.

        Return the answer if it is not this app's, or else None."""
        probe = self.tokens.sign(PROBE, token.job_id, token.attempt)
        answer = self._wire.ask(address, probe, request, patience, path)
        # connect= may lead to another app on purpose.
        if not is_here(answer, probe, "" if request.by_connect else request.app or self._app):
            return answer
        if path is not None or request.script_name is not None:
            self.add(address, _POST if path is None else path)
        return None


def _is_safe(request: JobRequest) -> bool:
    """Return whether this request can be sent to a foreign app without harm: a safe method without a body."""
    return is_safe_method(request.method) and not request.body
