"""An app of each framework, wrapped as it is: a user signs in, starts a job from a form, and reads its end."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from demo import Browser
from support.servers import GTHREAD, SYNC

from backjob import Status

pytestmark = pytest.mark.live


class Visitor(Browser):
    """Somebody who may sign in, and starts jobs from a form."""

    def __init__(self, server) -> None:
        host, port = server.address
        super().__init__(f"http://{host}:{port}", timeout=30)

    def start(self, field: str) -> int:
        return self.load_json("/start", urlencode({"field": field}).encode())["id"]

    def end_of(self, job_id: int, wait_until) -> dict:
        def ended():
            status = self.load_json(f"/status?id={job_id}")
            return status if Status(status["status"]).is_final else None

        return wait_until(ended)


@pytest.mark.parametrize("framework", ["pyramid", "bottle"])
@pytest.mark.parametrize("setup", [SYNC, GTHREAD], ids=str)
def test_a_job_runs_as_the_user_who_started_it(run_server, wait_until, setup, framework):
    server = run_server(setup, app=f"frameworks:{framework}_site")
    ada = Visitor(server)
    ada.submit("/login", name="Ada")
    job_id = ada.start("Zürich & more")
    status = ada.end_of(job_id, wait_until)
    assert (status["status"], status["progress"]) == (Status.COMPLETED, 100)
    assert status["status_text"].startswith("Zürich & more for Ada\n")
    server.assert_ran_once([job_id])


@pytest.mark.parametrize("framework", ["pyramid", "bottle"])
def test_a_job_of_nobody_is_refused_by_the_app(run_server, wait_until, framework):
    nobody = Visitor(run_server(GTHREAD, app=f"frameworks:{framework}_site"))
    status = nobody.end_of(nobody.start("a report"), wait_until)
    assert (status["status"], status["progress"]) == (Status.FAILED, 0)
    assert "HTTP 403 Forbidden" in status["status_text"]
