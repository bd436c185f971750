"""The keeper: the maintenance of jobs in one process, even if no request comes.

Renews leases, recovers lost jobs, launches due jobs and prunes. Every process has a keeper, so its writes are guarded.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from backjob.config import Config
from backjob.errors import AddressError, Refused, StoreError, TimedOut, describe
from backjob.keyring import PROBE, Keyring, SealError
from backjob.logs import about
from backjob.model.events import log_ended
from backjob.model.history import AttemptEnd, add_end
from backjob.model.job import Job, Move
from backjob.model.recovery import Policy, Recovery, RecoveryRecord, decide
from backjob.model.text import append_line, first_line
from backjob.runtime.backoff import random_between, retry_delay
from backjob.runtime.process_identity import is_dead
from backjob.runtime.threads import is_native
from backjob.storage.store import Store
from backjob.transport.launcher import SelfRequest

from .concurrency import Limits
from .duties import Duties
from .grace_period import GracePeriod, PossiblyLost
from .leases import Renewals
from .pruning import Pruning

log = logging.getLogger("backjob")

_SWEEP_EVERY = 2.0
_SHORTEST_PAUSE = 0.1
_AFTER_FAILURE = 1.0
_LONGEST_GRACE = 4.0
"""The longest wait of ``recover_all()`` beyond one lease, in seconds."""
_WAKE_UP_PATIENCE = 2.0
_KEYS_EVERY = 60.0
_MISSING_KEY = "This job waits for a process that has its key: add the old key to key=[new, old]"
_LEFT_FOR = 3600.0
"""Seconds for which a job is left alone that can't be recovered."""
_BUSY_FOR = 60.0
"""Seconds for which a job is left alone whose row another session keeps locked."""

_EVER = datetime.min.replace(tzinfo=timezone.utc)


@dataclass
class _Times:
    """The next time of each duty, in time.monotonic()."""

    renewal: float = 0.0
    sweep: float = 0.0
    pruning: float = 0.0
    missing_keys: float = 0.0


class Keeper:
    """The duties of one process. ``start_looking`` makes the dispatcher look for waiting rows."""

    def __init__(
        self,
        config: Config,
        keyring: Keyring,
        store: Store,
        self_request: SelfRequest,
        renewals: Renewals,
        limits: Limits,
        start_looking: Callable[[], None],
    ) -> None:
        self._config = config
        self._keyring = keyring
        self._store = store
        self._self_request = self_request
        self._app_id: str | None = self_request.app_id  # None: recovers those of all applications
        self._renewals = renewals
        self._limits = limits
        self._owner = limits.name
        self._start_looking = start_looking
        self._next = _Times()
        self._grace = GracePeriod(store, config.lease, self._renew)
        self._is_unreachable = False
        self._ended: set[str] = set()
        self._recovered, self._explained = 0, ""
        self._duties = Duties()
        self._pruning = Pruning(config, store)
        self._left: dict[int, float] = {}
        """The time at which a job that could not be recovered is tried again, in time.monotonic()."""

    def step(self) -> float:
        """Do what is due and return the seconds until the next duty. Raises no StoreError."""
        try:
            self._do_what_is_due()
        except StoreError as error:
            self._grace.reset()
            self._next = _Times()
            if not self._is_unreachable:
                self._is_unreachable = True
                log.warning("No lost jobs are recovered until the job store is back: %s", error)
            return _AFTER_FAILURE * random_between(0.75, 1.25)
        if self._is_unreachable:
            self._is_unreachable = False
            log.info("The job store is back")
        return max(0.0, min(self._next.renewal, self._next.sweep) - time.monotonic())

    def leave(self) -> None:
        """Write postponed outcomes and release held jobs as the process ends. Others launch them within a second."""
        do = self._duties.do
        try:
            do("Outcomes of jobs are left to recovery", lambda: self._renewals.write_postponed(self._store))
            do("This process counts for max_running until its lease ends", lambda: self._limits.withdraw(self._store))
            if self._store.free(self._owner):
                log.info("The jobs that waited here are left to other processes")
        except StoreError as error:
            log.warning("The jobs that wait here are taken up later: %s", error)

    def _do_what_is_due(self) -> None:
        now, do = time.monotonic(), self._duties.do
        is_pruning = self._config.keeper and now >= self._next.pruning
        if now >= self._next.renewal or is_pruning:  # renew before pruning, which may take a part of the lease
            # Read the time before the writes, because they may wait for a claim's lock.
            reached_at = self._grace.read_time()
            self._renew()
            self._grace.renewed_at = reached_at
            self._next.renewal = now + self._config.lease / 3
            do("This process is not counted for max_running", lambda: self._limits.renew(self._store))
        do("Outcomes of jobs wait to be written", lambda: self._renewals.write_postponed(self._store))
        if now >= self._next.sweep:
            pause = do("Lost jobs are not recovered", self.sweep, is_vital=True) if self._config.keeper else None
            self._next.sweep = now + (pause or _SWEEP_EVERY) * random_between(0.75, 1.25)
            if self._config.keeper:
                do("Waiting jobs are not looked for", self._see_to_launches)
        if self._config.keeper and now >= self._next.missing_keys:
            self._next.missing_keys = now + _KEYS_EVERY
            do("Jobs with another key are not looked for", self._note_missing_keys)
        if is_pruning:
            pause = do("Old jobs are not deleted", self._pruning.prune)
            self._next.pruning = now + (pause or self._pruning.EVERY) * random_between(0.75, 1.25)

    def _renew(self) -> None:
        self._renewals.renew(self._store, self._config.lease)

    def sweep(self) -> float:
        """Recover lost jobs and return the seconds until the next sweep. Raises StoreError."""
        now = self._grace.read_time()
        for holder in filter(is_dead, self._store.list_holders()):
            with contextlib.suppress(Refused, TimedOut):  # then their holds end with the lease
                self._store.free(holder)
        expired = self._grace.find_expired(now)
        policy = self._make_policy(self._grace.reached_since)
        leases = self._renewals.leases
        jobs = self._store.find_leased(self._keyring.key_ids, self._app_id)
        self._note_orphans(leases, leases.keys() - {job.lease_by for job in jobs})
        possibly_lost_jobs: set[PossiblyLost] = set()
        is_slow = False  # then the other jobs wait for the next sweep
        for job in jobs:
            recovery = self._decide(job, now, policy)
            if recovery is None:
                continue
            last_heard = job.updated_at if recovery.is_timeout else job.lease_until or job.held_until
            possibly_lost = job.id, job.attempt, last_heard
            if (recovery.is_certain or possibly_lost in expired) and not is_slow:
                is_slow = not self._recover_by_itself(job, recovery)
            else:
                possibly_lost_jobs.add(possibly_lost)
        self._grace.track(possibly_lost_jobs)
        timeouts = [job.error_timeout / 2 for job in jobs if job.error_timeout]
        return max(min(_SWEEP_EVERY, self._config.lease / 3, *timeouts), _SHORTEST_PAUSE)

    def _note_orphans(self, leases: dict[str, int], ended: set[str]) -> None:
        """Report the slots that are held by code of ended jobs. ``ended``: claims of this process that have ended.

        A claim counts only if it had ended at the last sweep too. Otherwise its code may be ending now.
        """
        orphans = [leases[claim] for claim in ended & self._ended]
        self._ended = ended
        self._duties.do("Lost slots are not counted", lambda: self._limits.note_orphans(orphans, self._store))
        self._duties.do("Waiting jobs do not say why", self._explain_waits)

    def _explain_waits(self) -> None:
        """Show in waiting jobs that slots are lost here or that the address does not answer, as long as that is so."""
        before, queue = self._explained, self._self_request.wire.queue
        self._explained = self._limits.lost_slots or queue
        for text in ({"", before} if self._explained else {before}) - {self._explained}:
            self._store.note_wait(self._self_request.app_id, self._explained, text)

    def _note_missing_keys(self) -> None:
        """Report jobs whose key this process lacks, in their status texts and in the log."""
        app_id, key_ids = self._self_request.app_id, self._keyring.key_ids
        count = self._store.note_missing_key(app_id, key_ids, _MISSING_KEY, _KEYS_EVERY)
        if count:
            log.warning("%d job(s) wait for a process that has their key: add it to key=[new, old]", count)

    def recover_all(self, wait: Callable[[float], object] = time.sleep) -> int:
        """Sweep until no job of any application looks lost, and return the number of recovered jobs. Raises StoreError.

        For a command that runs once. If a job looks lost, this takes a whole lease, because other processes may
        take that long to renew theirs.
        """
        end = time.monotonic() + self._config.lease + _LONGEST_GRACE
        recovered_before, grace = self._recovered, self._grace
        self._app_id = None
        while True:
            grace.renewed_at = grace.read_time()
            pause = self.sweep()
            if not self._looks_lost() or time.monotonic() > end:
                return self._recovered - recovered_before
            wait(pause)

    def _looks_lost(self) -> bool:
        now, policy = self._store.time(), self._make_policy(_EVER)
        jobs = self._store.find_leased(self._keyring.key_ids, self._app_id)
        return any(self._decide(job, now, policy) for job in jobs)

    def _make_policy(self, reached_since: datetime) -> Policy:
        return Policy(self._config.lease, reached_since, is_dead)

    def prune_all(self) -> int:
        """Delete all jobs that are old and return their number. Raises StoreError."""
        return self._pruning.prune_all()

    def _decide(self, job: RecoveryRecord, now: datetime, policy: Policy) -> Recovery | None:
        return decide(job, now, policy) if time.monotonic() >= self._left.get(job.id, 0.0) else None

    def _recover_by_itself(self, job: RecoveryRecord, recovery: Recovery) -> bool:
        """Recover this job. One that can't be recovered does not block the others. Raises StoreError for an outage.

        Return False if that took so long that the leases of this process may have to be renewed.
        """
        try:
            self._recover(job, recovery)
        except TimedOut as error:
            self._leave_alone(job.id, error, _BUSY_FOR)
            return False
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, Refused):
                raise
            self._leave_alone(job.id, error, _LEFT_FOR)
        return True

    def _leave_alone(self, job_id: int, error: Exception, seconds: float) -> None:
        now = time.monotonic()
        self._left = {each: until for each, until in self._left.items() if until > now} | {job_id: now + seconds}
        what = "Job %d can't be recovered and is left alone for %g s: %s"
        log.error(what, job_id, seconds, describe(error), extra=about(job_id))

    def _recover(self, job: RecoveryRecord, recovery: Recovery) -> None:
        record = self._store.get(job.id)
        if record is None or (record.status, record.attempt) != (job.status, job.attempt):
            return  # another process was quicker
        text = append_line(record.status_text, recovery.reason)
        try:
            is_made = self._make_move(job, record, recovery, text)
        except Refused:  # perhaps because of what the job wrote
            is_made = self._make_move(job, record, recovery, recovery.reason)
        if is_made:
            self._recovered += 1
            reason, seconds = first_line(recovery.reason), record.ran_for
            log_ended(recovery.move, job.id, job.attempt, record, seconds=seconds, reason=reason)

    def _make_move(self, job: RecoveryRecord, record: Job, recovery: Recovery, text: str) -> bool:
        again = recovery.move is Move.RETRY
        return self._store.move(
            recovery.move,
            job.id,
            attempt=job.attempt,
            text=text,
            error="" if recovery.move is Move.CANCEL else first_line(recovery.reason),
            progress=0 if again else None,
            delay=retry_delay(job.attempt) if again else 0,
            past=add_end(record.past, AttemptEnd(job.attempt, record.read_at, text)) if again else None,
            idle_for=job.error_timeout if recovery.is_timeout else 0,
            expires_at=None if recovery.is_timeout else job.lease_until or job.held_until,
        )

    def _see_to_launches(self) -> None:
        """Start the thread that looks for waiting rows. Under gevent, send a wake-up request for one row instead."""
        if is_native():
            self._start_looking()
            return
        key_ids, version = self._keyring.key_ids, self._config.app_version or ""
        app_id = self._self_request.app_id
        job = self._store.take_due(key_ids, self._owner, self._config.lease, app_id, app_version=version)
        if job is None:
            return
        try:
            request = self._keyring.unseal(job.id, job.uid, job.sealed)
            token = self._keyring.sign(PROBE, job.id, job.attempt, b"")
            self._self_request.send_wake_up(token, request, _WAKE_UP_PATIENCE)
        except (AddressError, SealError) as error:
            log.info("Job %d waits until a request comes: %s", job.id, error, extra=about(job.id, job.attempt))
        finally:
            self._store.hold(job.id, job.attempt, self._owner, None, 0)
