"""The option app_name, and whose jobs a process takes, runs and fails: two applications with one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.served import Site, serve, serve_site, wrap

from backjob import Status
from backjob.client.backend import Backend
from backjob.keyring import MONITOR

OLD, NEW = "the old key of these tests, and of nothing else", "the new key of these tests, and of nothing else"


def free(site: Site) -> None:
    """All launches are lost, and the jobs wait as rows."""
    site.sql("UPDATE background_job SET held_by = NULL, held_until = NULL")


def takes(site: Site) -> int | None:
    backend: Backend = site.backend
    job = backend.store.take_due(backend.keyring.key_ids, backend.monitor.owner, 30, backend.monitor.app_id)
    return job.id if job is not None else None


@pytest.mark.parametrize(("name", "is_run"), [("shop", True), ("Shop", False), ("blog", False), (None, False)])
def test_a_job_runs_in_processes_of_its_app_name(tmp_path: Path, name: str | None, is_run: bool) -> None:
    """Both wrap the same function in the same module: without the option they are one app."""
    with wrap(tmp_path, app_name="shop") as shop, wrap(tmp_path, app_name=name) as other:
        job_id = shop.start("/job")
        assert other.send(shop.token(job_id), "/job").code == (200 if is_run else 410)
        assert shop.status(job_id).status is (Status.COMPLETED if is_run else Status.STARTED)


@pytest.mark.parametrize("other_keys", [[OLD], [OLD, NEW], [NEW, OLD]], ids=["O", "ON", "NO"])
@pytest.mark.parametrize("keys", [[OLD], [OLD, NEW], [NEW, OLD]], ids=["O", "ON", "NO"])
def test_each_takes_its_own_at_each_step_of_a_change_of_keys(
    tmp_path: Path, keys: list[str], other_keys: list[str]
) -> None:
    with (
        wrap(tmp_path, app_name="shop", key=[OLD]) as before,
        wrap(tmp_path, app_name="shop", key=keys) as shop,
        wrap(tmp_path, app_name="blog", key=other_keys) as blog,
    ):
        ids = [site.start("/job") for site in (before, blog, before)]
        free(shop)
        assert [takes(shop), takes(shop), takes(shop)] == [ids[0], ids[2], None]
        assert takes(blog) == ids[1]


def test_a_job_of_nobody_is_its_receivers(tmp_path: Path) -> None:
    """It was started with connect=, by a script that wraps something else."""
    with (
        wrap(tmp_path, app_name="script", connect="http://127.0.0.1:9") as script,
        wrap(tmp_path, app_name="shop") as shop,
        wrap(tmp_path, app_name="blog") as blog,
    ):
        job_id = script.start("/job")
        assert script.row(job_id).app_id == ""
        token = script.launches.tokens[-1].text
        assert shop.send(token).code == 202
        assert shop.row(job_id).app_id == shop.backend.self_request.app_id
        free(shop)
        assert (takes(blog), takes(script), takes(shop)) == (None, None, job_id)
        assert blog.send(token).code == 410
        assert blog.send(shop.token(job_id), "/job").code == 410
        assert shop.send(shop.token(job_id), "/job").code == 200
        assert shop.status(job_id).status is Status.COMPLETED


def test_a_job_of_nobody_that_waits_goes_where_its_connect_leads(tmp_path: Path) -> None:
    """Its launch was lost, and another app finds the row."""
    with (
        serve_site(tmp_path, app_name="shop") as shop,
        wrap(tmp_path, app_name="script", connect=shop.server.url) as script,
        wrap(tmp_path, app_name="blog", launcher=None) as blog,
        serve(blog.application),
    ):
        job_id = script.start("/job")
        free(script)
        blog.backend.dispatcher.look_after(0)
        assert shop.wait_for_end(job_id).status is Status.COMPLETED


@pytest.mark.parametrize("kind", [MONITOR, "worker"])
def test_a_row_of_the_release_before_is_adopted_too(tmp_path: Path, kind: str) -> None:
    with wrap(tmp_path, app_name="shop") as shop:
        job_id = shop.start("/job")
        shop.sql("UPDATE background_job SET app_id = 'c0123456789abcde'")
        token = shop.launches.tokens[-1].text if kind == MONITOR else shop.token(job_id)
        assert shop.send(token, "/job").code == (202 if kind == MONITOR else 200)
        assert kind != MONITOR or shop.row(job_id).app_id == shop.backend.self_request.app_id
        assert kind == MONITOR or shop.status(job_id).status is Status.COMPLETED
