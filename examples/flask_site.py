"""A complete Flask app with a background job: log in, start it from a form, watch it run.

Serve it with ``gunicorn --threads 8 flask_site:app``, or ``flask --app flask_site run``. It needs Flask-WTF, whose
CSRFProtect is on. The job runs as the user who started it. Other users can't see it, because the user is its scope.
"""

import os
import time

from flask import Flask, abort, redirect, render_template_string, request, session, url_for
from flask_wtf import CSRFProtect

from backjob import JobNotFound
from backjob.integrations.flask import FlaskBackJob, current_jobs

PAUSE = float(os.environ.get("PROGRESS_PAUSE", "1"))
"""Seconds that each step of the job takes."""

PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reports</title>
<link rel="icon" href="data:,">
<style>
  body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  progress { width: 100% }
  pre { white-space: pre-wrap; overflow-wrap: anywhere }
</style>
"""

LOGIN = (
    PAGE
    + """\
<h1>Log in</h1>
<form method="post">
  <input type="hidden" name="csrf_token" value="{{ csrf_token() }}">
  <label>Your name <input name="name" required maxlength="50" autofocus></label> <button>Log in</button>
</form>
"""
)

HOME = (
    PAGE
    + """\
<h1>Reports</h1>
<form method="post" action="{{ url_for('logout') }}">
  <input type="hidden" name="csrf_token" value="{{ csrf_token() }}">
  Logged in as <b>{{ session.user_id }}</b> <button>Log out</button>
</form>
<form method="post" action="{{ url_for('start') }}">
  <input type="hidden" name="csrf_token" value="{{ csrf_token() }}">
  <p><label>Title <input name="title" required maxlength="100"></label> <button>Start the report</button></p>
</form>
<ul>
{% for job in current_jobs.find(scope=session.user_id, limit=5) %}
  <li><a href="{{ url_for('progress', job_id=job.id) }}">Job {{ job.id }}</a>,
    {{ job.status_name }}, {{ job.progress }} %</li>
{% endfor %}
</ul>
"""
)

PROGRESS = (
    PAGE
    + """\
<h1>Job {{ job_id }}</h1>
<p><progress id="bar" max="100" value="0" aria-label="Progress of the job"></progress></p>
<p role="status" id="state">…</p>
<pre id="output"></pre>
<p><a href="{{ url_for('home') }}">Back</a></p>
<script>
  async function refresh() {
    const response = await fetch("{{ url_for('status', job_id=job_id) }}");
    if (!response.ok) {
      document.getElementById("state").textContent = "The server answered " + response.status;
      return;
    }
    const job = await response.json();
    document.getElementById("bar").value = job.progress;
    document.getElementById("state").textContent = job.status_name + ", " + job.progress + " %";
    document.getElementById("output").textContent = job.status_text;
    if (!job.end_time) setTimeout(refresh, 1000);
  }
  refresh();
</script>
"""
)

app = Flask(__name__)
# The random key is for a single process. Several processes, and jobs after a restart, need a fixed one.
app.config["SECRET_KEY"] = os.environ.get("FLASK_SECRET_KEY") or os.urandom(32)
CSRFProtect(app)
FlaskBackJob(app)


@app.before_request
def require_login():
    if "user_id" not in session and request.endpoint != "login":
        return redirect(url_for("login"))
    return None


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "POST":
        # A real app asks for a password here. backjob only requires that the session has the user.
        session["user_id"] = request.form["name"]
        return redirect(url_for("home"))
    return render_template_string(LOGIN)


@app.post("/logout")
def logout():
    session.clear()
    return redirect(url_for("login"))


@app.get("/")
def home():
    return render_template_string(HOME)


@app.post("/start")
def start():
    data = {"title": request.form["title"]}
    job_id = current_jobs.start(url_for("report"), method="POST", data=data, scope=session["user_id"])
    return redirect(url_for("progress", job_id=job_id))


@app.get("/progress/<int:job_id>")
def progress(job_id):
    return render_template_string(PROGRESS, job_id=job_id)


@app.get("/status/<int:job_id>")
def status(job_id):
    try:
        return current_jobs.status(job_id, scope=session["user_id"]).as_dict(500), {"Cache-Control": "no-store"}
    except JobNotFound as error:
        abort(404, str(error))


@app.post("/report")
def report():
    """Run as the job: an ordinary view, which reports its progress and prints its output."""
    print(f"{request.form['title']!r} for {session['user_id']}: started.", file=current_jobs)
    for _step in current_jobs.track(range(5)):
        time.sleep(PAUSE)
    return "The report is done.", {"Content-Type": "text/plain"}
