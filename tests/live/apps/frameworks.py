"""The same small site in Pyramid and in Bottle: sign in, start a job by POST, ask for its status; the job itself."""

from __future__ import annotations

from typing import Any

import bottle
import judge
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.request import Request
from pyramid.session import SignedCookieSessionFactory

from backjob import BackJob

SECRET = "signs the sessions of a test"


def work(jobs: Any, user: str, field: str) -> None:
    """What both jobs do."""
    with judge.run({"backjob": jobs}):
        jobs.update(40)
        print(f"{field} for {user}", file=jobs)


def make_pyramid() -> Any:
    def login(request: Request) -> Any:
        request.session["user"] = request.params["name"]
        return {"welcome": request.session["user"]}

    def start(request: Request) -> Any:
        field = {"field": request.params["field"]}
        return {"id": request.environ["backjob"].start("/job", method="POST", data=field)}

    def status(request: Request) -> Any:
        return request.environ["backjob"].status(request.params["id"]).as_dict()

    def job(request: Request) -> Any:
        if "user" not in request.session:
            raise HTTPForbidden
        work(request.environ["backjob"], request.session["user"], request.POST["field"])
        return {"done": True}

    with Configurator(session_factory=SignedCookieSessionFactory(SECRET)) as config:
        for view in (login, start, status, job):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="json")
        return config.make_wsgi_app()


def make_bottle() -> Any:
    app = bottle.Bottle()

    @app.post("/login")
    def login() -> None:
        bottle.response.set_cookie("user", bottle.request.forms.name, secret=SECRET)

    @app.post("/start")
    def start() -> Any:
        # The form goes on as it came.
        return {"id": bottle.request.environ["backjob"].start("/job", method="POST", data=bottle.request.forms)}

    @app.get("/status")
    def status() -> Any:
        return bottle.request.environ["backjob"].status(bottle.request.query.id).as_dict()

    @app.post("/job")
    def job() -> Any:
        user = bottle.request.get_cookie("user", secret=SECRET) or bottle.abort(403)
        work(bottle.request.environ["backjob"], user, bottle.request.forms.field)
        return {"done": True}

    return app


pyramid_site = BackJob(make_pyramid())
bottle_site = BackJob(make_bottle())
