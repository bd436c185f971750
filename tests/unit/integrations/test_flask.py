"""Flask's extension, called as a server calls it: how it is set up, the proxy, the user, CSRF tokens, exceptions."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, abort, current_app, redirect, render_template_string, request, session
from flask.views import MethodView, View
from flask_caching import Cache
from flask_login import LoginManager, login_required
from flask_wtf import CSRFProtect, FlaskForm
from flask_wtf.csrf import generate_csrf
from itsdangerous import TimestampSigner
from support.served import KEY
from werkzeug.middleware.proxy_fix import ProxyFix
from wtforms import StringField

from backjob import ConfigError, JobStatus, Status
from backjob.integrations.flask import FlaskBackJob, background, current_jobs
from backjob.testing import Inline

MakeApp = Callable[..., Flask]


class OrderForm(FlaskForm):
    what = StringField()


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """A Flask app whose jobs run inline, in a database of its own. ``extensions`` are set up in this order."""
    made: list[Flask] = []

    def make(*extensions: Any, **config: Any) -> Flask:
        app = Flask(__name__)
        app.config.update(SECRET_KEY="of a test", BACKJOB_KEY=KEY, BACKJOB_LAUNCHER=Inline(), **config)
        app.config["BACKJOB_DATABASE"] = f"sqlite:///{tmp_path}/{len(made)}.sqlite3"
        for extension in extensions or [FlaskBackJob()]:
            extension.init_app(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["backjob"].close()


def run(app: Flask, target: str) -> JobStatus:
    """Run a job of nobody. Its start is in a request that did not come through wsgi_app."""
    with app.test_request_context():
        return current_jobs.status(current_jobs.start(target))


class Ada:
    """A user of an app."""

    def __init__(self, app: Flask, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.headers = headers
        self.client = app.test_client()
        self.options: dict[str, Any] = {}
        app.add_url_rule("/login", view_func=self.log_in)
        app.add_url_rule("/begin", view_func=self.begin)
        self.client.get("/login")

    def log_in(self) -> str:
        session["user_id"] = "ada"
        return "welcome"

    def begin(self) -> dict[str, int]:
        return {"id": current_jobs.start("/job", delay=60, **self.options)}

    def run(self, meanwhile: Callable[[], Any] = lambda: None, **options: Any) -> JobStatus:
        """Start a job, and run it later. How it ended."""
        self.options = options
        job_id = self.client.get("/begin", headers=self.headers).json["id"]
        meanwhile()
        self.app.config["BACKJOB_LAUNCHER"].run_waiting()
        return self.app.extensions["backjob"].jobs.status(job_id)


def see_other(to: str) -> Any:
    return redirect(to, 303)


@pytest.mark.parametrize("view", ["enter", "/enter", "https://id.test/enter"])
def test_a_redirect_to_the_login_view_is_no_success(make_app, view):
    app = make_app(BACKJOB_REDIRECT_OK=True)
    manager = LoginManager(app)
    manager.user_loader(lambda user_id: None)
    manager.login_view = view
    app.add_url_rule("/enter", "enter", lambda: "who?")
    app.add_url_rule("/mine", "mine", view_func=login_required(lambda: "never seen"))
    app.add_url_rule("/leave", "leave", lambda: see_other(request.args["to"]))
    found = run(app, f"/leave?to={view if '/' in view else '/enter'}?a")
    assert (found.status, found.error.endswith("a login page: nothing was done")) == (Status.FAILED, True)
    assert run(app, "/leave?to=/ticket/17").location == "/ticket/17"
    assert "a login page" in run(app, "/mine").error
    manager.login_view = None
    assert run(app, "/mine").error == "HTTP 401 UNAUTHORIZED"
    manager.unauthorized_handler(lambda: redirect("/confirm"))
    assert "a login page: nothing was done" in run(app, "/mine").error


def test_a_refusal_that_becomes_a_redirect_is_no_success(make_app):
    app = make_app(BACKJOB_REDIRECT_OK=True)
    app.add_url_rule("/job", view_func=lambda: abort(403))
    app.register_error_handler(403, lambda error: see_other("/"))
    assert "a login page" in run(app, "/job").error


@pytest.mark.parametrize("has_handler", [False, True])
def test_the_text_of_abort_is_kept_without_its_page(make_app, has_handler):
    app = make_app()
    app.add_url_rule("/refused", "refused", lambda: abort(422, "row 17 has no date"))
    app.add_url_rule("/gone", "gone", lambda: abort(410))
    if has_handler:
        app.register_error_handler(422, lambda error: ("<p>Sorry.", 422))
    assert run(app, "/refused").status_text.partition(":")[2] == " row 17 has no date"
    assert run(app, "/gone").status_text == "HTTP 410 GONE"


def test_it_needs_flask_alone():
    code = "import backjob.integrations.flask, sys; assert not {'flask_wtf', 'flask_login'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_options_come_from_the_config_and_by_name(make_app):
    app = make_app(FlaskBackJob(lease=20, backlog_days=3), BACKJOB_LEASE=10, BACKJOB_MAX_RUNNING=2)
    config = app.extensions["backjob"].config
    assert (config.lease, config.backlog_days, config.max_running) == (20, 3, 2)
    with pytest.raises(ConfigError, match="has a BackJob already"):
        FlaskBackJob(app)
    with pytest.raises(ConfigError, match="forward_headers must be a list of header names"):
        make_app(BACKJOB_FORWARD_HEADERS="X-A")
    with pytest.raises(ConfigError, match="laese is no option of BackJob: did you mean 'lease'"):
        FlaskBackJob(Flask("other"), laese=3)


def test_one_extension_serves_several_apps(make_app):
    extension = FlaskBackJob()
    one, other = make_app(extension), make_app(extension)
    for app in (one, other):
        app.add_url_rule("/job", view_func=lambda: current_app.config["BACKJOB_DATABASE"])
    for app in (one, other, one):
        assert run(app, "/job").status_text == app.config["BACKJOB_DATABASE"]
    assert [len(app.extensions["backjob"].jobs.find()) for app in (one, other)] == [2, 1]


def test_the_proxy_is_there_wherever_a_request_is(make_app):
    app = make_app()
    seen = []

    @app.before_request
    def look() -> None:
        seen.append((current_jobs.is_worker, current_jobs.job_id))

    app.add_url_rule("/job", view_func=lambda: render_template_string("job {{ current_jobs.job_id }}"))
    assert app.test_client().get("/job").text == "job None"
    assert run(app, "/job").status_text == "job 1"
    assert seen == [(False, None), (True, 1)]
    with app.app_context():
        assert current_jobs.status(1).status is Status.COMPLETED
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match=r"'bare' has no BackJob: FlaskBackJob\(app\)"):
        current_jobs.find()


def test_a_job_whose_session_is_no_more_reaches_nothing_of_the_app(make_app):
    app = make_app()
    reached = []
    app.before_request(lambda: reached.append(request.path))
    app.add_url_rule("/job", view_func=lambda: session["user_id"])
    ada = Ada(app)
    assert ada.run().status_text == "ada"
    reached.clear()
    status = ada.run(meanwhile=lambda: setattr(app, "secret_key", "another one"))
    assert status.status_text.startswith("The session of the user who started this job has ended or was replaced")
    assert (status.status, reached) == (Status.FAILED, ["/begin"])


def order() -> Any:
    form = OrderForm()
    return f"{form.validate_on_submit()} {form.errors} {form.what.data} {sorted(request.form)}"


@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize(
    "extensions", [[FlaskBackJob(), CSRFProtect()], [CSRFProtect(), FlaskBackJob()], [FlaskBackJob()]], ids=len
)
def test_a_form_that_is_handed_on_gets_a_new_token(make_app, extensions, as_user):
    app = make_app(*extensions)
    app.add_url_rule("/job", view_func=order, methods=["POST"])
    data = {"csrf_token": "an old one", "what": "tea"}
    status = Ada(app).run(method="POST", data=data, as_user=as_user)
    assert status.status_text == "True {} tea ['csrf_token', 'what']"


def test_a_job_comes_from_the_site_as_the_app_knows_it(make_app):
    """Which of a proxy's headers are to be believed, the app alone knows."""
    by = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "elsewhere.example"}

    def behind_a_proxy(app: Flask) -> None:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_proto=1, x_host=0)

    app = make_app(SimpleNamespace(init_app=behind_a_proxy), CSRFProtect(), FlaskBackJob())
    app.add_url_rule("/job", view_func=lambda: f"{request.url} {request.origin}", methods=["POST"])
    assert Ada(app, by).run(method="POST").status_text == "https://localhost/job https://localhost"


def test_a_browser_s_request_is_checked_as_ever(make_app):
    app = make_app(FlaskBackJob(), CSRFProtect())
    app.add_url_rule("/job", view_func=order, methods=["POST"])
    assert app.test_client().post("/job", data={"what": "tea"}).status_code == 400
    assert app.test_client().post("/job", environ_overrides={"backjob": "mine"}).status_code == 400


@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_is_named(make_app, debug):
    app = make_app(DEBUG=debug)
    app.register_error_handler(ConnectionError, lambda error: ("Sorry.", 503))
    app.register_error_handler(404, lambda error: {}["not there"])

    @app.get("/break/<how>")
    def break_down(how: str) -> str:
        raise {"handled": ConnectionError, "unhandled": ValueError}[how]("no figures")

    assert run(app, "/break/handled").status_text == "HTTP 503 SERVICE UNAVAILABLE: ConnectionError: no figures"
    prefix = "" if debug else "HTTP 500 INTERNAL SERVER ERROR: "
    assert run(app, "/break/unhandled").status_text.endswith(f"{prefix}ValueError: no figures")
    assert run(app, "/nowhere").status_text.endswith(f"{prefix}KeyError: 'not there'")


def test_background_runs_an_async_view_and_hands_its_arguments_on(make_app):
    app = make_app()

    @app.post("/count/<int:most>")
    @background
    async def count(most: int) -> str:
        return f"counted to {most}"

    answer = app.test_client().post("/count/7")
    assert (answer.status_code, answer.json) == (202, {"id": 1})
    assert app.extensions["backjob"].jobs.status(1).status_text == "counted to 7"


@pytest.mark.parametrize("read", ["get_data", "stream"])
def test_a_view_in_the_background_has_the_bytes_of_its_form(make_app, read):
    app = make_app()

    @app.post("/sign")
    @background
    def sign() -> str:
        body = request.get_data() if read == "get_data" else request.stream.read()
        return f"{body.decode()} {request.content_length} {request.form['a']}"

    sent = "b=2&a=%7E+x&a=1"
    app.test_client().post("/sign", data=sent, content_type="application/x-www-form-urlencoded")
    assert app.extensions["backjob"].jobs.status(1).status_text == f"{sent} {len(sent)} ~ x"


FORGED = {"Origin": "https://evil.example", "Referer": "https://evil.example/"}


class Shop:
    """An app where orders are taken in the background, as a browser sees it that has loaded a page with a form."""

    def __init__(
        self,
        app: Flask,
        check: Callable[[], Any],
        decorate: Callable[..., Any] = lambda view: view,
        **options: Any,
    ) -> None:
        self.taken: list[str] = []
        self.jobs = app.extensions["backjob"].jobs
        self._check = check
        app.add_url_rule("/page", view_func=generate_csrf)
        app.add_url_rule("/order", view_func=decorate(background(unique=True, **options)(self.take)), methods=["POST"])
        self._client = app.test_client()

    def take(self) -> Any:
        self._check()
        self.taken.append(request.values["what"])
        return f"taken {sorted(request.form)}", {"Content-Type": "text/plain"}

    def load(self) -> str:
        return self._client.get("/page", base_url="https://localhost").text

    def order(self, data: dict[str, Any], headers: Mapping[str, str] | None = None) -> JobStatus:
        form = {"what": "tea"} | data
        answer = self._client.post("/order", base_url="https://localhost", data=form, headers=headers)
        assert answer.status_code == 202, answer.text
        return self.jobs.status(answer.json["id"])


def check_form() -> None:
    form = OrderForm()
    if not form.validate_on_submit():
        current_jobs.fail(f"{form.errors}")


def check_request() -> None:
    current_app.extensions["csrf"].protect()


@pytest.mark.parametrize(
    ("extensions", "check"),
    [
        ([FlaskBackJob()], check_form),
        ([FlaskBackJob(), CSRFProtect()], check_form),
        ([FlaskBackJob(), CSRFProtect()], check_request),
        ([CSRFProtect(), FlaskBackJob()], check_request),
    ],
)
def test_a_view_in_the_background_refuses_a_forged_request_itself(make_app, extensions, check):
    app = make_app(*extensions)
    shop = Shop(app, check, app.extensions["csrf"].exempt if len(extensions) > 1 else lambda view: view)
    token, own = shop.load(), {"Referer": "https://localhost/page"}
    forged: list[Any] = [({}, FORGED), ({"csrf_token": f"{token}x"}, FORGED), ({}, own | {"X-CSRFToken": "of another"})]
    if check is check_request:
        forged.append(({"csrf_token": token}, FORGED))
    for data, headers in forged:
        status = shop.order(data, headers)
        assert status.status is Status.FAILED
        assert "CSRF" in status.status_text or "referrer does not match" in status.status_text
    assert shop.taken == []
    status = shop.order({"csrf_token": token}, own)
    assert (status.status, status.status_text) == (Status.COMPLETED, "taken ['csrf_token', 'what']")
    # A job that the app's own code starts is nobody's forgery.
    with app.test_request_context(base_url="https://localhost"):
        job_id = current_jobs.start("/order", method="POST", data={"what": "milk"})
        assert (current_jobs.status(job_id).status, shop.taken) == (Status.COMPLETED, ["tea", "milk"])


def test_a_check_that_the_browser_s_request_went_without_is_not_passed_by_the_job_s(make_app):
    """A form takes the word of CSRFProtect for it, in the job only if that has checked the browser's request."""
    app = make_app(FlaskBackJob(), CSRFProtect(), WTF_CSRF_CHECK_DEFAULT=False)
    app.before_request(lambda: None if "X-Program" in request.headers else check_request())
    shop = Shop(app, check_form)
    headers = {"X-CSRFToken": shop.load(), "Referer": "https://localhost/"}
    assert "CSRF" in shop.order({}, {"X-Program": "yes"}).status_text
    assert shop.taken == []
    assert shop.order({}, headers).status is Status.COMPLETED


def test_a_form_of_two_page_loads_is_one_job(make_app, monkeypatch):
    app = make_app(FlaskBackJob(), CSRFProtect())
    shop = Shop(app, lambda: None, delay=60)
    with monkeypatch.context() as a_minute_ago:
        a_minute_ago.setattr(TimestampSigner, "get_timestamp", lambda self: int(time.time()) - 60)
        tokens = [shop.load()]
    tokens.append(shop.load())
    own = {"Referer": "https://localhost/page"}
    ids = {shop.order({"csrf_token": token, "a-csrf_token": token}, own).id for token in tokens}
    assert (len(set(tokens)), len(ids)) == (2, 1)
    assert app.config["BACKJOB_LAUNCHER"].run_waiting() == list(ids)
    assert shop.jobs.status(*ids).status_text == "taken ['a-csrf_token', 'csrf_token', 'what']"


@pytest.mark.parametrize(
    ("check", "status"), [(lambda: None, Status.COMPLETED), (check_request, Status.FAILED)], ids=["none", "own"]
)
def test_a_view_in_the_background_may_run_as_nobody(make_app, check, status):
    """Who has no session, passes no check of his own."""
    app = make_app(FlaskBackJob(), CSRFProtect(), WTF_CSRF_CHECK_DEFAULT=False)
    shop = Shop(app, check, as_user=False)
    assert shop.order({"csrf_token": shop.load()}, {"Referer": "https://localhost/page"}).status is status


def test_an_input_for_a_file_may_be_left_empty(make_app):
    shop = Shop(make_app(), lambda: None)
    assert shop.order({"picture": (io.BytesIO(), "")}).status_text == "taken ['what']"


def test_a_job_is_neither_answered_from_the_page_cache_nor_stored_there(make_app):
    cache = Cache(config={"CACHE_TYPE": "SimpleCache"})
    app = make_app(cache, FlaskBackJob())
    counted: list[str] = []

    def count() -> str:
        counted.append("job" if current_jobs.is_worker else "visitor")
        return f"run {len(counted)} for a {counted[-1]}"

    class Counting(MethodView):
        @cache.cached()
        def get(self) -> str:
            return count()

    class Dispatched(View):
        decorators = (cache.cached(),)

        def dispatch_request(self) -> str:
            return count()

    app.add_url_rule("/function", view_func=cache.cached()(count))
    app.add_url_rule("/wrapped", view_func=background(cache.cached()(count), methods=["GET"]), endpoint="wrapped")
    app.add_url_rule("/method", view_func=Counting.as_view("method"))
    app.add_url_rule("/dispatched", view_func=Dispatched.as_view("dispatched"))
    for target in ("/function", "/method", "/dispatched"):
        counted.clear()
        texts = [run(app, target).status_text for _ in range(2)]
        pages = [app.test_client().get(target).text for _ in range(2)]
        texts.append(run(app, target).status_text)
        assert texts == ["run 1 for a job", "run 2 for a job", "run 4 for a job"]
        assert pages == ["run 3 for a visitor"] * 2
    counted.clear()
    for number in (1, 2):
        job_id = app.test_client().get("/wrapped").json["id"]
        assert app.extensions["backjob"].jobs.status(job_id).status_text == f"run {number} for a job"


def test_a_job_uses_the_caches_of_other_functions(make_app):
    cache = Cache(config={"CACHE_TYPE": "SimpleCache"})
    app = make_app(cache, FlaskBackJob())
    counted: list[int] = []

    @cache.memoize()
    def rate(of: int) -> int:
        counted.append(of)
        return of

    @cache.cached(key_prefix="rates")
    def rates() -> int:
        counted.append(0)
        return 0

    app.add_url_rule("/job", view_func=lambda: f"{rate(3)} {rates()}")
    assert [run(app, "/job").status_text for _ in range(2)] == ["3 0"] * 2
    assert counted == [3, 0]


def test_a_user_is_not_compared_where_flask_does_not_know(make_app):
    """A WSGI middleware between BackJob and Flask starts the job, and a response's generator without a context."""
    ids: list[int] = []

    def begin_outside(app: Flask) -> None:
        inner = app.wsgi_app

        def start_and_ask(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/outside":
                ids.append(environ["backjob"].start("/job", delay=60))
            return inner(environ, start_response)

        app.wsgi_app = start_and_ask  # type: ignore[method-assign]

    def begin_late() -> Any:
        jobs = request.environ["backjob"]
        return (str(ids.append(jobs.start("/job", delay=60))) for _ in range(1))

    app = make_app(SimpleNamespace(init_app=begin_outside), FlaskBackJob())
    app.add_url_rule("/job", view_func=lambda: session["user_id"])
    app.add_url_rule("/late", view_func=begin_late)
    ada = Ada(app)
    for target in ("/outside", "/late"):
        ada.client.get(target)
    app.config["BACKJOB_LAUNCHER"].run_waiting()
    assert [app.extensions["backjob"].jobs.status(each).status_text for each in ids] == ["ada", "ada"]
