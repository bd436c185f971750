"""A Pyramid site with a background job: sign in, start a report from a form, watch it. Serve it with

    gunicorn --threads 8 pyramid_site:application

The job is an ordinary view, with a route, a permission and CSRF protection. It runs as the user who started it.
Browsers can't request it, because it is ``backjob_only``.
"""

import os
import time
from html import escape

from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token, new_csrf_token
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.response import Response
from pyramid.security import Allowed, Denied, forget, remember
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import forbidden_view_config, view_config

from backjob import JobNotFound

SECRET = os.environ.get("SITE_SECRET") or os.urandom(32).hex()
"""Key that signs the session. The random one is for a single process. Several processes need a shared one."""

PAUSE = float(os.environ.get("SITE_PAUSE", "0.5"))
"""Seconds that each page of the report takes."""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reports</title>
<h1>Reports</h1>
{}
</html>
"""

SIGN_IN = """\
<form method="post" action="/login">
  <input type="hidden" name="csrf_token" value="{token}">
  <label>Your name <input name="name" required maxlength="50" autofocus></label>
  <button>Sign in</button>
</form>
"""

START = """\
<form method="post" action="/logout">
  <input type="hidden" name="csrf_token" value="{token}">
  Signed in as <b>{user}</b> <button>Sign out</button>
</form>
<form method="post" action="/start">
  <input type="hidden" name="csrf_token" value="{token}">
  <label>Pages <input name="pages" type="number" min="1" max="100" value="10"></label>
  <button>Start the report</button>
</form>
"""

# textContent shows the output as text, so that it can't become part of the page.
PROGRESS = """\
<p><progress id="bar" max="100" value="0"></progress> <span id="state" role="status"></span></p>
<pre id="output"></pre>
<p><a href="/">Back</a></p>
<script>
  const show = (id, text) => {{ document.getElementById(id).textContent = text; }};

  async function refresh() {{
    const answer = await fetch("/status/{job_id}");
    if (!answer.ok) return show("state", "There is no such report, or it is not yours.");
    const job = await answer.json();
    document.getElementById("bar").value = job.progress;
    show("state", job.status_name);
    show("output", job.status_text);
    if (!job.end_time) setTimeout(refresh, 500);
  }}
  refresh();
</script>
"""


class SecurityPolicy:
    """A policy that permits everything to a user with a name in the session. A real one looks the user up."""

    def identity(self, request):
        return request.session.get("user")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return Allowed("signed in") if self.identity(request) else Denied("not signed in")

    def remember(self, request, userid, **kw):
        request.session.invalidate()
        request.session["user"] = userid
        new_csrf_token(request)
        return []

    def forget(self, request, **kw):
        request.session.invalidate()
        return []


@view_config(route_name="home")
def home(request):
    user = request.authenticated_userid
    form = START if user else SIGN_IN
    return Response(PAGE.format(form.format(token=escape(get_csrf_token(request)), user=escape(user or ""))))


@forbidden_view_config()
def forbidden(request):
    # A job fails by this redirect, as it should: its user must be signed in.
    return HTTPSeeOther(request.route_path("home"))


@view_config(route_name="login", request_method="POST")
def login(request):
    # A real site asks for a password here.
    return HTTPSeeOther(request.route_path("home"), headers=remember(request, request.POST["name"]))


@view_config(route_name="logout", request_method="POST")
def logout(request):
    return HTTPSeeOther(request.route_path("home"), headers=forget(request))


@view_config(route_name="start", request_method="POST", permission="use")
def start(request):
    job_id = request.backjob.start(
        request.route_path("report"),
        method="POST",
        data={"pages": request.POST["pages"]},
        scope=request.authenticated_userid or "",
    )
    return HTTPSeeOther(request.route_path("progress", job_id=job_id))


@view_config(route_name="progress", permission="use")
def progress(request):
    return Response(PAGE.format(PROGRESS.format(job_id=int(request.matchdict["job_id"]))))


@view_config(route_name="status", permission="use", renderer="json", http_cache=0)
def status(request):
    # With the scope, users see only their own jobs.
    try:
        return request.backjob.status(request.matchdict["job_id"], scope=request.authenticated_userid or "").as_dict(
            500
        )
    except JobNotFound as error:
        raise HTTPNotFound(str(error)) from None


@view_config(route_name="report", request_method="POST", permission="use", backjob_only=True, renderer="string")
def report(request):
    """Run as the job."""
    for page in request.backjob.track(range(int(request.POST["pages"]))):
        time.sleep(PAUSE)
        print(f"Page {page + 1} is drawn.", file=request.backjob)
    return f"The report for {request.authenticated_userid} is done."


def main(global_config=None, **settings):
    """Return the app, also for an ini file. Options of backjob are settings that begin with ``backjob.``."""
    with Configurator(settings=settings, session_factory=SignedCookieSessionFactory(SECRET)) as config:
        config.include("backjob.integrations.pyramid")
        config.set_security_policy(SecurityPolicy())
        config.set_default_csrf_options(require_csrf=True)
        for name in ("login", "logout", "start", "report"):
            config.add_route(name, f"/{name}")
        config.add_route("home", "/")
        config.add_route("progress", r"/progress/{job_id:\d+}")
        config.add_route("status", r"/status/{job_id:\d+}")
        config.scan(__name__)
        return config.make_wsgi_app()


application = main()
