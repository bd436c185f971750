"""A Bottle site with a background job: sign in, start a report from a form, watch it. Serve it with

    gunicorn --threads 8 bottle_site:app

The job is a callback like any other, and runs as the user who started it.
"""

import hmac
import os
import secrets
import time

from bottle import Bottle, SimpleTemplate, abort, redirect, request, response

from backjob import JobNotFound
from backjob.integrations.bottle import BackJobPlugin

SECRET = os.environ.get("SITE_SECRET") or secrets.token_hex()
"""Key that signs the cookies. The random one is for a single process. Several processes need a shared one."""

PAUSE = float(os.environ.get("SITE_PAUSE", "0.5"))
"""Seconds that each page of the report takes."""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reports</title>
<h1>Reports</h1>
"""

HOME = SimpleTemplate(
    PAGE
    + """\
% if user:
<form method="post" action="/logout">
  <input type="hidden" name="csrf_token" value="{{token}}">
  Signed in as <b>{{user}}</b> <button>Sign out</button>
</form>
<form method="post" action="/start">
  <input type="hidden" name="csrf_token" value="{{token}}">
  <label>Pages <input name="pages" type="number" min="1" max="100" value="10"></label>
  <button>Start the report</button>
</form>
% else:
<form method="post" action="/login">
  <input type="hidden" name="csrf_token" value="{{token}}">
  <label>Your name <input name="name" required maxlength="50" autofocus></label>
  <button>Sign in</button>
</form>
% end
</html>
"""
)

# textContent shows the output as text, so that it can't become part of the page.
PROGRESS = SimpleTemplate(
    PAGE
    + """\
<p><progress id="bar" max="100" value="0"></progress> <span id="state" role="status"></span></p>
<pre id="output"></pre>
<p><a href="/">Back</a></p>
<script>
  const show = (id, text) => { document.getElementById(id).textContent = text; };

  async function refresh() {
    const answer = await fetch("/status/{{job_id}}");
    if (!answer.ok) return show("state", "There is no such report, or it is not yours.");
    const job = await answer.json();
    document.getElementById("bar").value = job.progress;
    show("state", job.status_name);
    show("output", job.status_text);
    if (!job.end_time) setTimeout(refresh, 500);
  }
  refresh();
</script>
</html>
"""
)


def read_user(request):
    """Return the user of the cookie, or None. A real site looks the user up."""
    return request.get_cookie("user", secret=SECRET)


def require_user():
    return read_user(request) or redirect("/", 303)


app = Bottle()
app.install(BackJobPlugin(identify=read_user))


@app.hook("before_request")
def check_csrf():
    """Require the token of our forms in each POST, except in jobs, which other sites can't forge."""
    if request.method == "POST" and not request.backjob.is_worker:
        token = request.get_cookie("csrf", secret=SECRET) or abort(403, "Your browser has sent no cookie.")
        if not hmac.compare_digest(request.forms.csrf_token.encode(), token.encode()):
            abort(403, "This form is too old. Load it again.")


def set_cookie(name, value):
    response.set_cookie(name, value, secret=SECRET, path="/", httponly=True, samesite="lax")


@app.get("/")
def home():
    token = request.get_cookie("csrf", secret=SECRET)
    if not token:
        token = secrets.token_hex()
        set_cookie("csrf", token)
    return HOME.render(user=read_user(request), token=token)


@app.post("/login")
def login():
    # A real site asks for a password here.
    set_cookie("user", request.forms.name)
    set_cookie("csrf", secrets.token_hex())
    redirect("/", 303)


@app.post("/logout")
def logout():
    response.delete_cookie("user", path="/")
    redirect("/", 303)


@app.post("/start")
def start():
    data = {"pages": request.forms.pages}
    job_id = request.backjob.start("/report", method="POST", data=data, scope=require_user())
    redirect(f"/progress/{job_id}", 303)


@app.get("/progress/<job_id:int>")
def progress(job_id):
    require_user()
    return PROGRESS.render(job_id=job_id)


@app.get("/status/<job_id:int>")
def status(job_id):
    response.set_header("Cache-Control", "no-store")
    # With the scope, users see only their own jobs.
    try:
        return request.backjob.status(job_id, scope=require_user()).as_dict(500)
    except JobNotFound as error:
        abort(404, str(error))


@app.post("/report")
def report():
    """Run as the job. A browser gets a 404, because the page is for jobs only."""
    user, job = require_user(), request.backjob
    if not job.is_worker:
        abort(404)
    for page in job.track(range(int(request.forms.pages))):
        time.sleep(PAUSE)
        print(f"Page {page + 1} is drawn.", file=job)
    return f"The report for {user} is done."


if __name__ == "__main__":
    app.run(server="gunicorn", threads=8)
