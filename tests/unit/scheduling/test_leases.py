"""What a process has yet to write stays with it until it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.records import bring_to, open_sqlite_store

from backjob.errors import StoreError
from backjob.model.job import Move, Status
from backjob.scheduling.leases import Renewals
from backjob.storage.store import Store
from backjob.worker.outcome import Outcome


def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    renewals, tries = Renewals(), []

    def write(at: Store) -> None:
        tries.append(at)
        if len(tries) == 1:
            raise StoreError

    renewals.postpone(write)
    with open_sqlite_store(tmp_path) as store:
        with pytest.raises(StoreError):
            renewals.write_postponed(store)
        renewals.write_postponed(store)
        renewals.write_postponed(store)
    assert tries == [store, store]


def test_a_request_that_reaches_the_store_writes_what_others_postponed(tmp_path: Path) -> None:
    """The keeper may be the one that gets no connection."""
    renewals, written = Renewals(), []
    with open_sqlite_store(tmp_path) as store:
        job = store.get(bring_to(store, Status.INPROGRESS))
        assert job is not None
        renewals.postpone(written.append)
        Outcome(job, Move.COMPLETE, "", 100).write_patiently(store, renewals)
        assert store.status(job.id).status is Status.COMPLETED  # type: ignore[union-attr]
        assert written == [store]


def test_a_postponed_write_is_made_once_while_another_caller_writes(tmp_path: Path) -> None:
    renewals, written = Renewals(), []

    def write_while_another_caller_writes(at: Store) -> None:
        written.append("first")
        renewals.write_postponed(at)

    renewals.postpone(write_while_another_caller_writes)
    renewals.postpone(lambda _: written.append("second"))
    with open_sqlite_store(tmp_path) as store:
        renewals.write_postponed(store)
    assert written == ["first", "second"]
