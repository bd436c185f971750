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
from backjob.wsgi.mounts import check_mount
from backjob.wsgi.names import is_safe_method

from .connection_failures import NoAnswer
from .error_hints import explain, explain_path, explain_post, hint_at_mount
from .protocol import ShortTokens, WireOutcome, is_here, is_taken
from .wire import PROBE_TIMEOUT, Wire

_END_OF_OUTAGE = 60.0
"""Seconds after the last sight of an outage in which an answer may still come from it."""
_OUTSIDE_STATUSES = frozenset({404, 500})
"""Answers of servers and dispatchers to a path outside of the mount."""
MOST_PATHS = 256
LONGEST_PROOF = 60.0
"""Seconds until a path or an address is probed again, because the servers in front of BackJob may be reconfigured."""
FRESH = 0.2
"""Seconds for which the last exchange with BackJob proves that no maintenance page or the like is in front of it."""
FRESH_FROM_SLOT = 5.0
"""The same for a caller in a slot, where a probe costs another request through the server's backlog."""

_AHEAD, _AHEAD_POSTED = "~", "~~"
_POST = ""
"""The key of a POST to the mount among the proven paths."""


def mark_job_path(nonce: str, *, is_posted: bool) -> str:
    """Mark the nonce of a monitor's request that goes to the job's own path, and whether a POST has just succeeded."""
    return (_AHEAD_POSTED if is_posted else _AHEAD) + nonce


def is_for_job_path(nonce: str) -> bool:
    """Return whether the monitor's request with this nonce was sent to the job's own path."""
    return nonce.startswith(_AHEAD)


class PathProofs:
    """Proven paths of one process of the app with this name."""

    def __init__(self, tokens: ShortTokens, wire: Wire, app: str) -> None:
        self.tokens = tokens
        self._wire = wire
        self._app = app
        self._mount = ""
        self._proven: dict[tuple[Address, str], float] = {}
        self._unreachable_at = float("-inf")
        self._last_contact = float("-inf")
        self._last_post = float("-inf")
        self.takes_posts = True
        """False after a POST to the mount was answered by something else, until one reaches BackJob again."""

    def note_arrival(self, method: str, script_name: str) -> None:
        """Record the arrival of a self-request with this method, at BackJob's SCRIPT_NAME."""
        self._mount = script_name
        self._last_contact = time.monotonic()
        if method == "POST":
            self._last_post, self.takes_posts = self._last_contact, True

    def note_job_path(self, address: Address, path: str, nonce: str) -> None:
        """Record the arrival of a request from send_to_job_path(): BackJob answers under this path."""
        self.add(address, path)
        if nonce.startswith(_AHEAD_POSTED):
            self.add(address, _POST)

    def has_reached_job_path(self, address: Address, request: JobRequest) -> bool:
        """Return whether a request from send_to_job_path() has just come in, and so the POST sent before it."""
        return time.monotonic() - self._proven.get((address, request.path), float("-inf")) < FRESH

    def add(self, address: Address, path: str) -> None:
        """Record that BackJob has just answered under this path, or a POST to the mount if it is _POST."""
        self._last_contact = time.monotonic()
        self.takes_posts = self.takes_posts or path == _POST
        while len(self._proven) >= MOST_PATHS:
            self._proven.pop(next(iter(self._proven), (address, path)), None)
        self._proven[address, path] = self._last_contact

    def clear(self) -> None:
        """Drop all proofs, because an answer was not BackJob's."""
        self._proven.clear()
        self._last_contact = self._last_post = float("-inf")

    def covers(self, address: Address, request: JobRequest, *, from_slot: bool = False) -> bool:
        """Return whether this request can be sent there without a probe."""
        if _is_safe(request):
            return True
        fresh, now = FRESH_FROM_SLOT if from_slot else FRESH, time.monotonic()
        proven_at = self._proven.get((address, request.path), float("-inf"))
        is_proven = now - proven_at < LONGEST_PROOF and now - self._last_contact < fresh
        return is_proven and self._takes_post(address, request, fresh)

    def _takes_post(self, address: Address, request: JobRequest, fresh: float) -> bool:
        """Return whether a POST has reached BackJob just now. True if the mount is unknown: none can be sent then."""
        posted_at = self._proven.get((address, _POST), float("-inf"))
        if not address.is_recorded:  # what comes in here shows nothing of another app's address
            posted_at = max(posted_at, self._last_post)
        return request.script_name is None or time.monotonic() - posted_at < fresh

    def prove(self, address: Address, token: Token, request: JobRequest, timeout: float) -> None:
        """Check that BackJob answers the path of a request, and a POST to the mount if none has come in just now.

        Raises LaunchError. Its ``is_of_job`` is true if BackJob answers at the mount, but not under this path.
        """
        takes_post = self._takes_post(address, request, FRESH)
        self._prove_path(address, token, request, timeout)
        if not takes_post:
            self._prove_post(address, token, request, timeout)

    def _prove_path(self, address: Address, token: Token, request: JobRequest, timeout: float) -> None:
        """Probe the path. If only the mount answers, probe the path again: an outage may have ended meanwhile."""
        answer = self._probe(address, token, request, timeout, request.path)
        if answer is None:
            return
        if not self._answers_at_mount(address, token, request):
            raise explain(answer, address)
        answer = self._probe(address, token, request, timeout, request.path)
        if answer is not None:
            raise self._explain_path(answer, address, "GET", request)

    def _prove_post(self, address: Address, token: Token, request: JobRequest, timeout: float) -> None:
        """Probe the mount with a POST. Raises LaunchError if something else answers, such as a maintenance page."""
        answer = self._probe(address, token, request, timeout)
        if answer is not None:
            self.takes_posts = False
            raise explain_post(answer, address)

    def prove_mount(self, address: Address, token: Token, request: JobRequest, timeout: float) -> None:
        """Probe the mount. Raises LaunchError if the app does not answer, or any with the same key as for connect=."""
        answer = self._probe(address, token, request, timeout)
        if answer is not None:
            raise explain(answer, address)

    def post_to_mount(self, address: Address, token: Token, request: JobRequest, timeout: float) -> bool:
        """Send a POST to the mount before send_to_job_path(). Raises LaunchError if something else answers at once.

        Return whether a POST is known to reach BackJob. If not, it waits in the server's backlog, ahead of the request
        of send_to_job_path(), or the mount is unknown.
        """
        if request.script_name is None:
            return False
        try:
            if not self._takes_post(address, request, FRESH_FROM_SLOT):
                self._prove_post(address, token, request, timeout)
        except NoAnswer:
            return False
        return True

    def send_to_job_path(self, address: Address, token: Token, request: JobRequest, timeout: float) -> None:
        """Send a monitor's request to the job's own path. Raises LaunchError if something else answers at once."""
        try:
            answer = self._wire.ask(address, token, request, timeout, request.path)
        except NoAnswer:
            return  # the caller's slot may be the only one: the request is in the server's backlog
        if not is_taken(answer, token):
            raise self._explain(answer, address, token, request, "GET")

    def explain_monitor(self, answer: Answer, address: Address, token: Token, request: JobRequest) -> LaunchError:
        """Explain an answer to the monitor's request that is not BackJob's. It goes to the mount if that is known."""
        if request.script_name is not None:
            return explain(answer, address)
        return self._explain(answer, address, token, request, "GET")

    def explain_worker(self, answer: Answer, address: Address, token: Token, request: JobRequest) -> LaunchError:
        """Explain an answer to the worker's request that is not BackJob's.

        A request with effects is not sent again after any answer, because it may have been acted on.
        """
        is_own = explain(answer, address).is_of_job or WireOutcome.UNAVAILABLE.is_proven_by(answer, token)
        if answer.raw and not _is_safe(request) and not is_own:
            return explain_path(answer, address, request.method, request.path, is_answered=True)
        return self._explain(answer, address, token, request, request.method)

    def _explain(self, answer: Answer, address: Address, token: Token, request: JobRequest, method: str) -> LaunchError:
        """Distinguish an outage of the whole address from another program that answers this path alone.

        A recent outage may have ended just after this answer. Then BackJob answers the path too.
        """
        failure = explain(answer, address)
        if failure.is_of_job or WireOutcome.UNAVAILABLE.is_proven_by(answer, token):
            return failure
        if not self._answers_at_mount(address, token, request):
            is_unknown = request.script_name is None and answer.status in _OUTSIDE_STATUSES
            return hint_at_mount(failure) if is_unknown else failure
        was_away = time.monotonic() - self._unreachable_at < _END_OF_OUTAGE
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
            self._unreachable_at = time.monotonic()
        return is_there

    def answers(self, address: Address, token: Token, request: JobRequest, path: str | None = None) -> bool:
        """Return whether BackJob answers a probe of this path, or of the mount if it is None."""
        try:
            return self._probe(address, token, request, PROBE_TIMEOUT, path) is None
        except LaunchError:
            return False

    def _probe(
        self, address: Address, token: Token, request: JobRequest, timeout: float, path: str | None = None
    ) -> Answer | None:
        """Probe this path with a GET. If it is None, probe the mount, with a POST if the mount is known.

        Return the answer if it is not this app's, or else None."""
        probe = self.tokens.sign(PROBE, token.job_id, token.attempt)
        answer = self._wire.ask(address, probe, request, timeout, path)
        # connect= may lead to another app on purpose.
        if not is_here(answer, probe, "" if request.by_connect else request.app or self._app):
            return answer
        if path is not None or request.script_name is not None:
            self.add(address, _POST if path is None else path)
        return None


def _is_safe(request: JobRequest) -> bool:
    """Return whether this request can be sent to a foreign app without harm: a safe method without a body."""
    return is_safe_method(request.method) and not request.body
