"""A factory of a Flask app with Flask-Login, Flask-WTF and Flask-SQLAlchemy, its sessions bound to the browser."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, render_template_string, request, stream_with_context
from flask_login import LoginManager, UserMixin, current_user, fresh_login_required, login_user
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect, FlaskForm
from wtforms import StringField

from backjob.integrations.flask import FlaskBackJob, background, current_jobs

db = SQLAlchemy()
login_manager = LoginManager()
jobs = FlaskBackJob(backlog_days=7)

FORM = """<form method="post"><input name="csrf_token" value="{{ csrf_token() }}"><input name="name"></form>"""


class Person(UserMixin, db.Model):
    """Who logs in under ``key``, and who that is."""

    key = db.Column(db.String, primary_key=True)
    name = db.Column(db.String)

    def get_id(self) -> str:
        return self.name


class Entry(db.Model):
    """Work done."""

    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String)


class FiguresForm(FlaskForm):
    figures = StringField()


login_manager.user_loader(lambda key: db.session.get(Person, key))


def add_entry(name: str) -> None:
    db.session.add(Entry(name=name))
    db.session.flush()  # the transaction is open


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="signs the sessions of a test",
        SESSION_PROTECTION="strong",
        SQLALCHEMY_DATABASE_URI="sqlite:///app.db",
        BACKJOB_DATABASE="sqlite:///jobs.sqlite3",
    )
    app.instance_path = app.root_path
    csrf = CSRFProtect()
    csrf.exempt(pay)
    for extension in (jobs, db, login_manager, csrf):
        extension.init_app(app)
    with app.app_context():
        db.create_all()
    for rule, view in VIEWS.items():
        app.add_url_rule(rule, view_func=view, methods=["GET", "POST", "PUT"])
    app.register_error_handler(ConnectionError, lambda error: ("Sorry.", 503))
    return app


def login() -> Any:
    if request.method == "GET":
        return render_template_string(FORM)
    person = db.session.merge(Person(key=request.form["name"], name=request.form["name"]))
    db.session.commit()
    login_user(person)
    return "welcome"


def begin() -> Any:
    """Start the job that the query names. ``then``: what becomes of the user before it runs."""
    options: dict[str, Any] = {name: request.args[name] for name in ("method",) if name in request.args}
    then = request.args.get("then")
    job_id = current_jobs.start(
        request.args["target"], as_user="anonymous" not in request.args, after_response=bool(then), **options
    )
    if then == "leave":
        db.session.delete(current_user)
    elif then:
        current_user.name = then
    db.session.commit()
    return {"id": job_id}


def state(job_id: int) -> Any:
    return current_jobs.status(job_id).as_dict()


def cancel() -> Any:
    return {"was_live": current_jobs.cancel(int(request.args["id"]))}


def entries() -> Any:
    """Somebody else who writes: locked out, if a transaction was left open. And how many connections are in use."""
    in_use = db.engine.pool.checkedout()
    add_entry("a visit")
    db.session.commit()
    return {"in_use": in_use, "names": [entry.name for entry in db.session.execute(db.select(Entry)).scalars()]}


def work(end: str) -> Any:
    """A job that writes to the database and then ends in this way."""
    add_entry(end)
    print(request.method, "by", current_user.name if current_user.is_authenticated else "nobody", file=current_jobs)
    if end == "error":
        raise ValueError("the figures don't add up")
    if end == "handled":
        raise ConnectionError("the other side is away")
    if end == "fail":
        current_jobs.fail("told to fail")
    while end == "cancel":
        current_jobs.update(10)
        time.sleep(0.01)
    if end == "stream":
        return stream_with_context(stream()), {"Content-Type": "text/plain"}
    if end == "finish":
        current_jobs.finish("all is well")
    db.session.commit()
    return "", {"Content-Type": "text/plain"}


def stream() -> Any:
    yield "one\n"
    current_jobs.fail("no more")


@fresh_login_required
def fresh() -> Any:
    form = FiguresForm()
    return f"{form.validate_on_submit()} for {current_user.name}", {"Content-Type": "text/plain"}


@background(retries=1, scope=lambda: current_user.name)
def sum_up() -> Any:
    told = (request.method, request.full_path, request.mimetype)
    return f"{told} {request.form.get('figures') or request.get_data(as_text=True)}", {"Content-Type": "text/plain"}


@background
def pay() -> Any:
    """Exempt from the check of all requests: its form checks for itself, within the job."""
    form = FiguresForm()
    if not form.validate_on_submit():
        current_jobs.fail(f"{form.errors}")
    add_entry(f"paid {form.figures.data}")
    db.session.commit()
    return "paid", {"Content-Type": "text/plain"}


VIEWS = {
    "/pay": pay,
    "/login": login,
    "/begin": begin,
    "/state/<int:job_id>": state,
    "/cancel": cancel,
    "/entries": entries,
    "/work/<end>": work,
    "/fresh": fresh,
    "/sum": sum_up,
}
