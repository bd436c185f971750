"""A sealed request opens in its own table alone, whatever somebody copies who can write rows but has no key."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from support.caches import empty_region, make_memory_region, opened
from support.records import PROCESSES, TABLE, Databases, add, databases, new_job, open_store, run
from support.served import KEY, wrap

from backjob.keyring import Keyring, SealError
from backjob.model.job import RECORD_VERSION, JobRequest
from backjob.storage.cache.store import CacheStore
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import DEPLOYMENT, build_table

__all__ = ["databases"]
SERVERS = ["sqlite", "postgresql", "mariadb"]
COPY = "INSERT INTO {0} SELECT * FROM {1} WHERE id = 1"
COPY_DEPLOYMENT = "UPDATE {0}_process SET app_version = '{1}' WHERE name = 'deployment'"


def read_id(url: str, table: str = TABLE) -> str:
    [row] = run(url, f"SELECT app_version FROM {table}_process WHERE name = :name", name=DEPLOYMENT)
    return str(row["app_version"])


@pytest.mark.parametrize("name", SERVERS)
def test_a_row_that_was_copied_to_another_table_does_not_open(databases: Databases, name: str, tmp_path: Path) -> None:
    """Not even with the id of its deployment beside it."""
    url = databases.url(name, tmp_path)
    with wrap(tmp_path, database=url) as site, wrap(tmp_path, database=url, table_name="sibling") as sibling:
        job_id = site.start("/job", delay=600)
        sibling.within(lambda jobs: jobs.exists(1))
        run(url, COPY.format("sibling", TABLE))
        run(url, COPY_DEPLOYMENT.format("sibling", read_id(url)))
        assert sibling.row(job_id) is not None
        assert site.backend.keyring.unseal(job_id, site.row(job_id).uid, site.row(job_id).sealed)
    with wrap(tmp_path, database=url, table_name="sibling") as sibling:  # reads the id anew
        copy = sibling.row(job_id)
        with pytest.raises(SealError):
            sibling.backend.keyring.unseal(job_id, copy.uid, copy.sealed)
        assert sibling.send(sibling.token(job_id), "/job").code == 403
    for table in ("sibling", "sibling_process"):
        run(url, f"DROP TABLE {table}")


@contextlib.contextmanager
def two_databases(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    (folder / "other").mkdir()
    with Databases() as first, Databases() as second:
        yield first.url(name, folder), second.url(name, folder / "other")


@pytest.mark.parametrize("name", SERVERS)
def test_a_row_that_was_copied_to_another_database_does_not_open(name: str, tmp_path: Path) -> None:
    """On a server not even with the id of its deployment: the name of the database is sealed too."""
    with two_databases(name, tmp_path) as (url, other_url):
        with wrap(tmp_path, database=url) as site:
            job_id = site.start("/job", delay=600)
            job = site.row(job_id)
        with wrap(tmp_path, database=other_url) as sibling:
            sibling.start("/other", delay=600)
            run(other_url, f"UPDATE {TABLE} SET uid = :uid, sealed = :sealed", uid=job.uid, sealed=job.sealed)
            assert read_id(url) != read_id(other_url)
            with pytest.raises(SealError):
                sibling.backend.keyring.unseal(1, job.uid, sibling.row(1).sealed)
        run(other_url, COPY_DEPLOYMENT.format(TABLE, read_id(url)))
        with wrap(tmp_path, database=other_url) as sibling:
            assert sibling.row(1).sealed == job.sealed
            with pytest.raises(SealError) if name != "sqlite" else contextlib.nullcontext():
                sibling.backend.keyring.unseal(1, job.uid, job.sealed)


@pytest.mark.parametrize("name", SERVERS)
def test_processes_that_begin_at_once_agree(databases: Databases, name: str, tmp_path: Path) -> None:
    """Also where the tables were made beforehand, and for the twin of a Database, which the keeper uses."""
    url = databases.url(name, tmp_path)
    with open_store(url) as store:
        add(store)
    run(url, f"DELETE FROM {PROCESSES}")
    opened_ones = [Database(url, build_table(TABLE), create_table=False) for _ in range(8)]
    twin = opened_ones[0].make_twin(10)

    def use(database: Database) -> None:
        with database.connect():
            pass

    try:
        with ThreadPoolExecutor(9) as pool:
            list(pool.map(use, [twin, *opened_ones]))
        assert {database.name.split()[-1] for database in [twin, *opened_ones]} == {read_id(url)}
    finally:
        for database in [twin, *opened_ones]:
            database.dispose()


def seal_as_the_first_version(job_id: int, uid: str, *version: int) -> bytes:
    fernet: Fernet = Keyring([KEY])._newest.fernet
    fields = {**new_job().request.__dict__, "body": "a=\xff\n1"}
    return fernet.encrypt(json.dumps([job_id, uid, fields, *version]).encode())


@pytest.mark.parametrize("version", [(), (1,)])
def test_a_record_of_the_first_version_opens(version: tuple[int, ...]) -> None:
    keyring = Keyring([KEY], lambda: "place")
    assert keyring.unseal(7, "uid", seal_as_the_first_version(7, "uid", *version)).body == b"a=\xff\n1"
    with pytest.raises(SealError):  # there is none of the second version without a table
        keyring.unseal(7, "uid", seal_as_the_first_version(7, "uid", RECORD_VERSION))


def test_a_body_is_sealed_as_it_is() -> None:
    """Neither text nor base64: a row is as large as the request."""
    keyring, body = Keyring([KEY], lambda: "place"), bytes(range(256)) * 4096
    sealed = keyring.seal(1, "uid", JobRequest("POST", "/", "", "/", body=body))
    assert len(body) < len(sealed) < len(body) + 1000
    assert keyring.unseal(1, "uid", sealed).body == body
    with pytest.raises(SealError):
        Keyring([KEY], lambda: "elsewhere").unseal(1, "uid", sealed)
    assert keyring.unseal(1, "uid", base64.urlsafe_b64encode(sealed)).body == body


def test_a_record_that_was_copied_to_another_cache_does_not_open() -> None:
    """Of the same prefix and the same key. Here too, who can write the id as well can let it open."""
    keyrings, new = [], new_job()
    with contextlib.ExitStack() as stack:
        cells = [stack.enter_context(opened(make_memory_region())) for _ in range(2)]
        first, second = stores = [CacheStore(each, "jobs-") for each in cells]
        keyrings = [Keyring([KEY], lambda store=store: store.place) for store in stores]  # type: ignore[misc]
        job_id, _ = first.add(new, lambda job_id: keyrings[0].seal(job_id, new.uid, new.request))
        add(second)
        cells[1].change(f"jobs-job-{job_id}", lambda _: cells[0].read(f"jobs-job-{job_id}"))
        copy = second.get(job_id)
        assert copy is not None
        with pytest.raises(SealError):
            keyrings[1].unseal(job_id, new.uid, copy.sealed)
        assert keyrings[0].unseal(job_id, new.uid, copy.sealed) == new.request


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_processes_agree_after_a_cache_has_lost_everything(kind: str) -> None:
    """Whichever of them comes first, and one that begins only then."""
    with empty_region(kind) as region, opened(region) as cells:
        first, second, third = (CacheStore(cells, "jobs-") for _ in range(3))
        for store in (first, second):
            add(store)
        assert first.place == second.place != third.place
        for key in ("index", "deployment"):
            cells.delete(f"jobs-{key}")
        job_id = add(third)
        for store in (first, second):
            assert store.get(job_id) is not None
        assert first.place == second.place == third.place


def test_a_new_process_opens_a_record_of_another_one_that_it_found_by_the_list() -> None:
    """The first sweep of a process takes due jobs before anybody has asked for a single one."""
    with opened(make_memory_region()) as cells:
        first, *others = (CacheStore(cells, "jobs-") for _ in range(3))
        new, keyring = new_job(), Keyring([KEY], lambda: first.place)
        job_id, _ = first.add(new, lambda job_id: keyring.seal(job_id, new.uid, new.request))
        assert [job.id for job in others[0].find(None, None, 10, None)] == [job_id]
        taken = others[1].take_due([new.key_id], "process", 30)
        assert taken is not None
        for store in others:
            assert store.place == first.place
