"""What a person does for the jobs of an application: settle, delete, make the table, start again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dogpile.cache import make_region
from sqlalchemy import create_engine, event
from support.processes import name_dead
from support.served import KEY, Site, call, make_environ, say_done, serve_site, wrap

from backjob import BackJob, BackJobError, ConfigError, JobNotFound, Status, StoreError
from backjob.model.recovery import PROCESS_GONE


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


def test_a_sweep_settles_what_was_lost_and_counts_it(site: Site) -> None:
    job_id = site.start("/job")
    assert site.application.sweep() == 0
    site.backend.store.claim(job_id, 1, f"{name_dead()}-nonce", 30, 0)
    assert site.application.sweep() == 1
    assert (site.status(job_id).status, site.status(job_id).status_text) == (Status.FAILED, PROCESS_GONE)


def test_keeping_begins_with_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may end its processes after a few requests, each within its first second."""
    with wrap(tmp_path, app_name="site") as site:
        job_id = site.start("/job")
        site.backend.store.claim(job_id, 1, f"{name_dead()}-nonce", 30, 0)
        monkeypatch.setattr("backjob.application.START_DELAY", 3600.0)
        url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
        application = BackJob(say_done, database=url, key=KEY, app_name="site")
        call(application, make_environ("/"))
        assert site.wait_for_end(job_id).status_text == PROCESS_GONE
        application.close()


def test_old_jobs_are_deleted_and_counted(tmp_path: Path) -> None:
    with wrap(tmp_path, backlog_days=1) as site:
        old, young = (site.run("/job").id for _ in range(2))
        site.sql("UPDATE background_job SET ended_at = '2020-01-01' WHERE id = ?", old)
        assert site.application.prune() == 1
        assert not site.application.jobs.exists(old)
        assert site.application.prune() == 0
        assert site.application.jobs.exists(young)


def test_the_table_is_made_whatever_the_option_says(tmp_path: Path) -> None:
    with wrap(tmp_path, create_table=False) as site:
        with pytest.raises(StoreError, match="create_table=True"):
            site.start("/job")
        site.application.create_table()
        site.application.create_table()
        assert site.run("/job").status is Status.COMPLETED


def test_a_cache_alone_has_no_table() -> None:
    region = make_region().configure("dogpile.cache.memory")
    application = BackJob(say_done, database=None, cache=region, key=KEY, keeper=False)
    with pytest.raises(ConfigError, match="without a table"):
        application.create_table()
    application.close()


def test_a_table_that_can_not_be_made_is_an_error_of_the_store(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON").close())
    application = BackJob(say_done, database=engine, key=KEY, keeper=False)
    with pytest.raises(StoreError, match="readonly"):
        application.create_table()
    application.close()
    engine.dispose()


def test_files_that_the_first_use_would_make_are_told(tmp_path: Path) -> None:
    application = BackJob(say_done, database=f"sqlite:///{tmp_path / 'jobs.sqlite3'}", keeper=False)
    assert application.missing_files == [f"{tmp_path}/jobs.sqlite3", f"{tmp_path}/jobs.sqlite3.key"]
    assert not application.jobs.exists(1)
    assert application.missing_files == []
    application.close()


# Start again.


def say_what_came(environ, start_response):
    """A job that breaks as long as it is to."""
    environ["backjob"].write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} ")
    environ["backjob"].write(environ["wsgi.input"].read().decode())
    start_response("500 Oops" if (Path(environ["app.folder"]) / "broken").exists() else "200 OK", [])
    return []


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Site]:
    def job(environ, start_response):
        return say_what_came({**environ, "app.folder": str(tmp_path)}, start_response)

    (tmp_path / "broken").touch()
    with serve_site(tmp_path, job) as site:
        yield site


def test_nobodys_job_that_failed_is_started_again_as_it_was(broken: Site, tmp_path: Path) -> None:
    given = {"method": "POST", "data": {"b": 2}, "scope": "reports", "priority": 3, "error_timeout": 9.0}
    first = broken.start("/job", {"a": 1}, as_user=False, **given)
    assert broken.wait_for_end(first).status is Status.FAILED
    (tmp_path / "broken").unlink()
    second = broken.within(lambda jobs: jobs.retry(str(first)))
    assert second > first
    end = broken.wait_for_end(second)
    assert (end.status, end.status_text, end.scope) == (Status.COMPLETED, "POST /job?a=1 b=2", "reports")
    job = broken.row(second)
    assert (job.priority, job.error_timeout, job.retries, job.sealed) == (3, 9.0, 0, None)
    with pytest.raises(BackJobError, match=f"Job {second} can't be started again: it has completed"):
        broken.within(lambda jobs: jobs.retry(second))


def test_what_can_not_be_started_again_says_why(site: Site) -> None:
    def reason(job_id: int) -> str:
        with pytest.raises(BackJobError) as raised:
            site.within(lambda jobs: jobs.retry(job_id))
        assert f"Job {job_id} can't be started again: " in str(raised.value)
        return str(raised.value).partition(": ")[2]

    of_user = site.start("/job")
    waits = site.start("/job", as_user=False)
    assert reason(of_user).startswith("only a job that was started with as_user=False can")
    assert reason(waits) == "it has not ended, it is waiting"
    site.application.jobs.cancel(of_user), site.application.jobs.cancel(waits)
    assert reason(of_user).startswith("only a job that was started with as_user=False can")
    site.sql("UPDATE background_job SET sealed = x'00' WHERE id = ?", waits)
    assert reason(waits) == "its request can't be unsealed: its key is missing here, or the record was changed"
    with pytest.raises(JobNotFound):
        site.within(lambda jobs: jobs.retry(99))
    assert len(site.rows()) == 2


@pytest.mark.parametrize(("is_early", "reason"), [(True, "with as_user=False can"), (False, "can't be unsealed")])
def test_a_row_that_calls_a_users_job_nobodys_is_of_no_use(site: Site, is_early: bool, reason: str) -> None:
    """Whether somebody writes it before the job's end, so that its request is kept, or later."""
    job_id = site.start("/job", by={"HTTP_COOKIE": "secret"})
    change = "UPDATE background_job SET anonymous = TRUE WHERE id = ?"
    if is_early:
        site.sql(change, job_id)
    site.application.jobs.cancel(job_id)
    site.sql(change, job_id)
    with pytest.raises(BackJobError, match=reason):
        site.within(lambda jobs: jobs.retry(job_id))
    assert len(site.rows()) == 1


def test_an_old_launch_of_a_kept_request_runs_nothing(site: Site) -> None:
    """The request of a job that was cancelled is still there; its tokens are of no use any more."""
    ran = []
    site.job = lambda environ, start_response: ran.append(1) or say_done(environ, start_response)
    job_id = site.start("/job", as_user=False)
    token = site.token(job_id)
    site.application.jobs.cancel(job_id)
    assert site.send(token, "/job").code == 409
    assert site.send(site.launches.tokens[0].text).code == 409
    assert call(site.application, make_environ("/job")).body == b"done"
    assert ran == [1]


@pytest.fixture
def other(site: Site) -> Iterator[BackJob]:
    """Another app with the same jobs."""
    other = BackJob(say_done, database=f"sqlite:///{site.path}", key=KEY, keeper=False, launcher=site.launches)
    yield other
    other.close()


def test_another_apps_job_is_not_started_again_here(site: Site, other: BackJob) -> None:
    job_id = site.start("/job", as_user=False)
    site.application.jobs.cancel(job_id)
    with pytest.raises(BackJobError, match="it belongs to another app"):
        other.jobs.retry(job_id)
    assert site.within(lambda jobs: jobs.retry(job_id)) > job_id


# Run one here.


def test_a_job_is_run_here_if_it_is_ours_and_waits(site: Site, other: BackJob) -> None:
    job_id, later = site.start("/job"), site.start("/job", delay=60)
    follower = site.within(lambda jobs: jobs.start("/job", after_response=True))
    site.sql("UPDATE background_job SET held_by = 'response-of-a-page' WHERE id = ?", follower)
    run = site.application.run_job
    assert (other.run_job(job_id), run(job_id), run(job_id)) == (False, True, False)
    assert (run(later), run(later, early=True), run(follower, early=True)) == (False, True, False)
    assert [site.status(each).status for each in (job_id, later)] == [Status.COMPLETED] * 2
    with pytest.raises(JobNotFound):
        run(99)


def test_a_job_of_another_key_is_left_alone(tmp_path: Path) -> None:
    with wrap(tmp_path) as site, wrap(tmp_path, key="another key, and just as long as the first") as other:
        assert other.application.run_job(site.start("/job")) is False


def test_no_limit_counts_for_a_job_that_is_run_here(tmp_path: Path) -> None:
    def job(environ, start_response):
        if environ["PATH_INFO"] == "/outer":
            assert site.application.run_job(inner)
        return say_done(environ, start_response)

    with wrap(tmp_path, job, max_running=1) as site:
        inner = site.start("/inner")
        assert site.run("/outer").status is Status.COMPLETED
        assert site.status(inner).status is Status.COMPLETED
