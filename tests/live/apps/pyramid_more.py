"""A Pyramid site with transactions, sessions that end on the server's side, and jobs that end in all ways."""

from __future__ import annotations

from typing import Any

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.csrf import SessionCSRFStoragePolicy, get_csrf_token
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

engine = create_engine("sqlite:///shop.sqlite3")
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE IF NOT EXISTS note (text)"))
    connection.execute(text("CREATE TABLE IF NOT EXISTS login (token, user)"))
make_session = sessionmaker(engine)


class LoginPolicy:
    def authenticated_userid(self, request: Any) -> str | None:
        values = {"token": request.session.get("login")}
        return request.dbsession.execute(text("SELECT user FROM login WHERE token = :token"), values).scalar()


def open_session(request: Any) -> Any:
    session = make_session()
    zope.sqlalchemy.register(session, transaction_manager=request.tm)
    return session


def execute(request: Any, statement: str, **values: Any) -> None:
    request.dbsession.execute(text(statement), values)
    zope.sqlalchemy.mark_changed(request.dbsession)


def token(request: Any) -> str:
    return get_csrf_token(request)


def login(request: Any) -> None:
    request.session["login"] = name = request.POST["name"]
    execute(request, "INSERT INTO login VALUES (:name, :name)", name=name)


def start(request: Any) -> Any:
    """Start a job; in the same transaction, what happens to its user's session meanwhile."""
    job_id = request.backjob.start(**request.json_body["job"])
    if request.json_body["meanwhile"]:
        execute(request, request.json_body["meanwhile"])
    return {"id": job_id}


def status(request: Any) -> Any:
    return request.backjob.status(request.matchdict["id"]).as_dict()


def connections(request: Any) -> int:
    """Those that are in use, but for this page's own."""
    return engine.pool.checkedout() - ("dbsession" in vars(request))


def work(request: Any) -> Any:
    """A job that writes something, and ends as it is told to."""
    job, how = request.backjob, request.params["how"]
    execute(request, "INSERT INTO note VALUES (:how)", how=how)
    if how == "fail":
        job.fail("out of paper")
    if how == "cancel":
        job.cancel(job.job_id)
    while how == "cancel":
        job.update()
    if how == "crash":
        raise ValueError("no such book")
    if how == "finish":
        job.finish("finished")
    return f"{how} by {request.authenticated_userid}"


def sorry(error: Exception, request: Any) -> Response:
    return Response("Sorry", status=500)


def make_application() -> Any:
    settings = {"tm.manager_hook": "pyramid_tm.explicit_manager"}
    with Configurator(settings=settings, session_factory=SignedCookieSessionFactory("of a test")) as config:
        config.include("backjob.integrations.pyramid")
        config.include("pyramid_tm")
        config.add_request_method(open_session, "dbsession", reify=True)
        config.set_security_policy(LoginPolicy())
        config.set_csrf_storage_policy(SessionCSRFStoragePolicy())
        config.set_default_csrf_options(require_csrf=True)
        for view in (token, login, start, connections):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="json")
        config.add_route("status", "/status/{id}")
        config.add_view(status, route_name="status", renderer="json")
        config.add_route("work", "/work")
        config.add_view(work, route_name="work", renderer="string", backjob_only=True)
        config.add_exception_view(sorry, context=ValueError)
        return config.make_wsgi_app()


application = make_application()
