"""The monitor of one job: launches its worker, waits for it without a limit, and judges the answer.

Before a claim, an answer that is not our worker's is a launch failure. After it the worker alone ends the job, or the
keeper if the worker is lost. Threads and their number are the dispatcher's.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from enum import Enum
from typing import TypeGuard

from backjob._socket import Connection, is_done
from backjob.config import Config
from backjob.errors import Busy, LaunchError, OutsideMount, StoreError
from backjob.keyring import MONITOR, WORKER, Keyring, NewerRecordError, SealError, Token, new_nonce
from backjob.logs import about
from backjob.messages import compose, plain
from backjob.model.app_id import may_have
from backjob.model.events import Requested, log_ended
from backjob.model.job import FINAL, NOT_LAUNCHED, Glance, Job, JobRequest, Move, Status
from backjob.model.text import first_line
from backjob.runtime.backoff import backoff, outage_backoff
from backjob.runtime.process_identity import name_process
from backjob.storage.store import Store
from backjob.transport.launcher import SelfRequest
from backjob.transport.path_proofs import mark_job_path
from backjob.transport.protocol import WireOutcome

from .leases import Renewals

log = logging.getLogger("backjob")

_FIRST_LOOK = 0.05
_LONGEST_LOOK = 1.0
_AFTER_END = 10.0
"""Seconds to wait for the answer to a request whose job has ended."""
_SHORTEST_WATCH, _LONGEST_WATCH = 10.0, 60.0
"""The shortest and the longest pause between two reads of a running job's record, in seconds."""
_MOST_RELEASED = 20
"""Jobs that one success retries. Each of them does the same."""
_AHEAD = 5.0
"""Seconds until a request that was sent to a job's own path counts as lost."""
_MOST_PUT_OFF = 10000
_MOST_READ = 50
_ABANDONED = plain(
    "no process of its application has taken it for a day. An application that is renamed needs an app_name"
)
LONGEST_OUTAGE = 86400.0
"""Seconds for which launches are retried at an address that has worked."""


class Verdict(Enum):
    """The result of a launch."""

    ENDED = "the job has ended, by its worker or otherwise"
    FULL = "no slot is free for jobs: the job waits"
    REFUSED = "not launched: the job fails, or is tried again later"
    UNSEEN = "the answer was not our worker's, but the job runs"


class Monitor:
    """Launches and watches jobs for this process, one call a job."""

    def __init__(
        self, config: Config, keyring: Keyring, store: Store, launcher: SelfRequest, renewals: Renewals
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._store = store
        self._launcher = launcher
        self._renewals = renewals
        self.owner = name_process()
        """This process in the records."""
        self.app_id = launcher.app_id
        self._put_off: dict[int, tuple[int, str]] = {}  # jobs that wait for the end of an outage: attempt and holder

    def run(self, job: Job, on_claim: Callable[[], None], patience: float = math.inf) -> Verdict:
        """Launch the job and watch it to its end. ``on_claim`` is called as soon as the job has a slot.

        ``patience``: seconds to wait for that. A caller that holds a slot, maybe the only one, then leaves the request
        to the server.
        """

        def watch(token: Token, request: JobRequest, connection: Connection) -> Verdict:
            if not self._wait(job, token, request, connection, on_claim, patience):
                return Verdict.UNSEEN
            on_claim()
            return self._judge(job, token, request, connection)

        self._renewals.hold(job.id, self.owner)
        try:
            return self._launch(job, watch, from_slot=patience < math.inf)
        finally:
            self._renewals.end_hold(job.id)

    def leave(self, job: Job) -> Verdict:
        """Launch the job and wait only for ``close_delay``."""

        def wait_briefly(token: Token, request: JobRequest, connection: Connection) -> Verdict:
            is_answered = connection.receive(self._config.close_delay)
            return self._judge(job, token, request, connection) if is_answered else Verdict.UNSEEN

        return self._launch(job, wait_briefly, from_slot=True)

    def refuse(
        self, job_id: int, attempt: int, holder: str, error: LaunchError, request: Requested, failed_for: float = 0
    ) -> float:
        """Note a failed launch. Return the seconds until the next try, or 0 after failing the job."""
        is_outage = not error.is_of_job and self._has_worked(error)
        if failed_for >= LONGEST_OUTAGE if is_outage else error.is_final or failed_for >= self._config.launch_timeout:
            reason = f"The job can't be launched: {error.public}"
            if self._store.move(Move.FAIL, job_id, attempt=attempt, text=reason, error=first_line(reason)):
                log_ended(Move.FAIL, job_id, attempt, request, reason=f"The job can't be launched: {error}")
            return 0.0
        wait = outage_backoff(failed_for) if is_outage else backoff(failed_for)
        log.warning("Job %d is launched again in %.1f s: %s", job_id, wait, error, extra=about(job_id, attempt))
        text = f"{NOT_LAUNCHED}, next try in {wait:.0f} s: {error.public}"
        self._store.note_launch_failure(job_id, attempt, holder, text, wait, failed_for)
        if is_outage and len(self._put_off) < _MOST_PUT_OFF:
            self._put_off[job_id] = attempt, holder
        return wait

    def end_outage(self) -> None:
        """Retry the jobs that wait for the end of an outage at once, because a launch has succeeded.

        Do nothing while a maintenance page passes on only GETs: each job of a GET would wake jobs of a POST in vain.
        """
        if not self._launcher.paths.takes_posts:
            return
        for job_id in list(self._put_off)[:_MOST_RELEASED]:
            attempt, holder = self._put_off.pop(job_id, (0, ""))
            with contextlib.suppress(StoreError):  # then each of them waits for its own next try
                self._store.hold(job_id, attempt, holder, None, 0)

    def _has_worked(self, error: LaunchError) -> bool:
        """Has the address worked in this process, or in another one that has run a job of this app?"""
        if not self._launcher.has_worked and not error.is_denied:
            ran = self._store.find(FINAL | {Status.INPROGRESS}, None, _MOST_READ, None, 0)
            is_any = self._config.address is not None  # connect= may lead to any application
            self._launcher.has_worked = any(job.started_at and (is_any or job.app_id == self.app_id) for job in ran)
        return self._launcher.has_worked

    def _send_ahead(self, job: Job, token: Token, request: JobRequest) -> Verdict:
        """Prove the job's path without waiting: send it a monitor request, which launches the job when it arrives.

        The caller holds a slot, maybe the only one, so a probe could get no answer. Until the request arrives, this
        counts as a failed launch: another server may answer it there, unseen.
        """
        failed_for = job.launch_failed_for
        is_posted = self._launcher.post_to_mount(token, request, is_again=failed_for > 0)
        nonce = mark_job_path(new_nonce(), is_posted=is_posted)
        at = request.path[:200]
        unseen = f"BackJob has not been reached at {at}: all slots are busy, or something in front of it answers there"
        if failed_for:  # one was sent before, and has not arrived
            wait = self.refuse(job.id, job.attempt, self.owner, LaunchError(plain(unseen)), job, failed_for)
        else:
            wait = _AHEAD
            self._store.note_launch_failure(job.id, job.attempt, self.owner, "", wait)
        if wait and self._store.hold(job.id, job.attempt, self.owner, nonce, wait):
            token = self._keyring.sign(MONITOR, job.id, job.attempt, job.sealed or b"", nonce)
            try:
                self._launcher.send_to_job_path(token, request)
            except Busy:
                return self._leave_to_threads(job, nonce)
            except LaunchError as error:
                self.refuse(job.id, job.attempt, nonce, error, job, failed_for)
        return Verdict.UNSEEN

    def refuse_target(self, job: Job, error: OutsideMount) -> None:
        """Fail a job whose target is outside of the app: each launch would fail."""
        self.refuse(job.id, job.attempt, "", LaunchError(error, is_final=True, is_of_job=True), job)

    def _launch(
        self, job: Job, then: Callable[[Token, JobRequest, Connection], Verdict], *, from_slot: bool = False
    ) -> Verdict:
        if not may_have(self.app_id, job.app_id):
            self.refuse(job.id, job.attempt, self.owner, LaunchError(_ABANDONED, is_final=True, is_of_job=True), job)
            return Verdict.REFUSED
        try:
            request = self._launcher.unseal(job)
            token = self._keyring.sign(WORKER, job.id, job.attempt, job.sealed or b"")
            if from_slot and not self._launcher.covers(request):
                return self._send_ahead(job, token, request)
            with self._launcher.open(token, request, from_slot=from_slot) as connection:
                return then(token, request, connection)
        except NewerRecordError:
            # A column of its row was changed: such a row is not taken otherwise.
            self._store.note_full(job.id, job.attempt, self.owner)
            return Verdict.FULL
        except SealError:
            reason = "The record was changed: it can't be read."
            if self._store.move(Move.FAIL, job.id, attempt=job.attempt, text=reason, error=reason):
                log_ended(Move.FAIL, job.id, job.attempt, job, reason=reason)
        except Busy as error:
            if not error.is_final or job.overdue_for < LONGEST_OUTAGE:
                return self._leave_to_threads(job, self.owner)
            self.refuse(job.id, job.attempt, self.owner, LaunchError(error, is_final=True, is_of_job=True), job)
        except LaunchError as error:
            self.refuse(job.id, job.attempt, self.owner, error, job, job.launch_failed_for)
        return Verdict.REFUSED

    def _leave_to_threads(self, job: Job, holder: str) -> Verdict:
        """Leave the job to a thread, which can wait for a free slot. This slot may be the only one."""
        self._store.note_full(job.id, job.attempt, holder)
        return Verdict.FULL

    def _note_success(self, connection: Connection) -> None:
        self._launcher.note_proof(connection.address)
        self.end_outage()

    def _wait(
        self,
        job: Job,
        token: Token,
        request: JobRequest,
        connection: Connection,
        on_claim: Callable[[], None],
        patience: float,
    ) -> bool:
        """Wait for the answer, and note when the job gets its slot. Return whether the answer has come.

        Raises LaunchError if the request is lost on its way to a slot.
        """
        wait, status = _FIRST_LOOK, Status.STARTED

        def is_served(seconds: float) -> bool:
            nonlocal wait, status
            if connection.receive(min(wait, seconds)):
                return True
            wait = min(wait * 1.5, _LONGEST_LOOK)
            status = self._look(job)
            return status is not Status.STARTED

        if patience == math.inf:
            self._launcher.wait_in_queue(is_served, connection, token, request)
        elif not is_done(is_served, patience):
            return False
        if connection.answer.is_complete:
            return True
        self._renewals.end_hold(job.id)
        on_claim()
        self.end_outage()
        return self._watch(job, token, connection, status)

    def _watch(self, job: Job, token: Token, connection: Connection, status: Status) -> bool:
        """Wait for the answer as long as the job runs. Return whether it has come.

        A load balancer may drop an idle connection without closing it, and TCP keep-alive checks only the connection
        to the load balancer. So the record is read from time to time. If the job's code runs on in this process after
        the job ended, the wait goes on too, because that code holds a slot. Another process counts such code itself,
        in Limits.enter(), and refuses further jobs.
        """
        pause = _SHORTEST_WATCH
        while status in (Status.STARTED, Status.INPROGRESS) or self.name_claim(token) in self._renewals.leases:
            if is_done(connection.receive, pause):
                return True
            pause = min(pause * 1.5, _LONGEST_WATCH)
            status = self._look(job)
        return is_done(connection.receive, _AFTER_END)

    def name_claim(self, token: Token) -> str:
        """Return the name by which a worker of this process claims the job of this token."""
        return f"{self.owner}-{token.nonce}"

    def _look(self, job: Job) -> Status:
        """Return the status of this attempt: CANCELLED if the row is gone or has another one, STARTED if unknown."""
        try:
            glance = self._store.glance(job.id)
        except StoreError as error:
            log.warning("Job %d goes on, its record can't be read: %s", job.id, error, extra=about(job.id, job.attempt))
            return Status.STARTED
        return glance.status if glance is not None and glance.attempt == job.attempt else Status.CANCELLED

    def _judge(self, job: Job, token: Token, request: JobRequest, connection: Connection) -> Verdict:
        answer = connection.answer
        is_full = WireOutcome.FULL.is_proven_by(answer, token)
        if is_full or WireOutcome.ENDED.is_proven_by(answer, token):
            self._note_success(connection)
            if is_full:
                self._store.note_full(job.id, job.attempt, self.owner)
            return Verdict.FULL if is_full else Verdict.ENDED
        if WireOutcome.OTHER_VERSION.is_proven_by(answer, token):
            self._launcher.has_worked = True
            other = "{address} has another app_version than this job's, {version}"
            raise LaunchError(compose(other, address=connection.address, version=plain(repr(job.app_version))))
        glance = self._store.glance(job.id)
        if not WireOutcome.REFUSED.is_proven_by(answer, token):
            self._launcher.forget_proofs()
            if _is_at(glance, job, Status.STARTED):
                raise self._launcher.explain_worker_answer(connection, token, request)
        return Verdict.UNSEEN if _is_at(glance, job, Status.INPROGRESS) else Verdict.ENDED


def _is_at(glance: Glance | None, job: Job, status: Status) -> TypeGuard[Glance]:
    """Is the record still at this attempt, and in this status?"""
    return glance is not None and glance.status is status and glance.attempt == job.attempt
