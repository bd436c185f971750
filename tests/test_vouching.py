"""What a process has yet to write stays with it until it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.records import open_sqlite_store

from backjob.errors import StoreError
from backjob.store import Store
from backjob.vouching import Vouching


def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    vouching, tries = Vouching(), []

    def write(at: Store) -> None:
        tries.append(at)
        if len(tries) == 1:
            raise StoreError

    vouching.postpone(write)
    with open_sqlite_store(tmp_path) as store:
        with pytest.raises(StoreError):
            vouching.write_postponed(store)
        vouching.write_postponed(store)
        vouching.write_postponed(store)
    assert tries == [store, store]
