"""A complete app: sign in, start a job, watch it run. Serve it with ``gunicorn --threads 8 progress:application``.

The job runs as the user who started it, because it is an ordinary request of this app, with the user's cookie. Other
users can't see it, because the user's name is the job's scope.
"""

import os
import time

from bottle import Bottle, SimpleTemplate, abort, redirect, request, response

from backjob import BackJob, JobNotFound

PAUSE = float(os.environ.get("PROGRESS_PAUSE", "2"))
"""Seconds that each step of the job takes."""

SECRET = os.environ.get("PROGRESS_SECRET") or os.urandom(32)
"""Key that signs the cookie. The random one is for a single process. Several processes need a shared one."""

PAGE = SimpleTemplate("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<link rel="icon" href="data:,">
<style>
  body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
  progress { width: 100% }
  progress.failed { accent-color: #b00020 }
  .failed { color: #b00020 }
  .user { display: flex; gap: 1rem; align-items: baseline }
  pre { white-space: pre-wrap; overflow-wrap: anywhere }
</style>
<h1>{{title}}</h1>
{{!content}}
</html>
""")

SIGN_IN = SimpleTemplate("""\
<form method="post" action="/login">
  <label>Your name <input name="name" required maxlength="50" autofocus></label>
  <button>Sign in</button>
</form>
""")

START = SimpleTemplate("""\
<form class="user" method="post" action="/logout">Signed in as <b>{{user}}</b> <button>Sign out</button></form>
<form method="post" action="/start">
  <p><label><input type="checkbox" name="broken" value="yes"> Let it fail half way</label></p>
  <button>Start the job</button>
</form>
% if jobs:
<h2>Your jobs</h2>
<ul>
% for job in jobs:
  <li><a href="/progress/{{job.id}}">Job {{job.id}}</a>, {{job.status_name}}, {{job.progress}} %</li>
% end
</ul>
% end
""")

# textContent shows the output as text, so that it can't become part of the page.
PROGRESS = SimpleTemplate("""\
<p>The job runs in the web server, as you. It goes on when you leave this page.</p>
<p><progress id="bar" max="100" value="0" aria-label="Progress of the job"></progress></p>
<p role="status"><span id="state">…</span> <span id="trouble"></span></p>
<pre id="output"></pre>
<p><a href="/">Back</a></p>
<noscript>This page needs JavaScript; <a href="/status/{{job_id}}">the bare status</a> does not.</noscript>
<script>
  const show = (id, text) => { document.getElementById(id).textContent = text; };

  async function refresh() {
    try {
      const response = await fetch("/status/{{job_id}}");
      if (response.status === 404) return show("state", "There is no such job, or it is not yours.");
      if (!response.ok) throw new Error("the server answered " + response.status);
      const job = await response.json();
      document.getElementById("bar").value = job.progress;
      show("state", (job.is_cancelling ? "being cancelled" : job.status_name) + ", " + job.progress + " %");
      show("output", job.status_text);
      show("trouble", "");
      for (const id of ["bar", "state"]) document.getElementById(id).classList.toggle("failed", job.status === 3);
      if (job.end_time) return;
    } catch (error) {
      show("trouble", "(" + error.message + "; trying again)");
    }
    setTimeout(refresh, 1000);
  }
  refresh();
</script>
""")

app = Bottle()


def require_user() -> str:
    """Return the name in the signed cookie. Without one, redirect to the start page. A job would fail there."""
    return request.get_cookie("user", secret=SECRET) or redirect("/", 303)


@app.get("/")
def home():
    user = request.get_cookie("user", secret=SECRET)
    if not user:
        return PAGE.render(title="Sign in", content=SIGN_IN.render())
    jobs = request.environ["backjob"].find(scope=user, limit=5)
    return PAGE.render(title="A job with progress", content=START.render(user=user, jobs=jobs))


@app.post("/login")
def login():
    # A real app asks for a password here. backjob only requires that the app knows its user by a cookie.
    response.set_cookie("user", request.forms.name, secret=SECRET, path="/", httponly=True, samesite="lax")
    redirect("/", 303)


@app.post("/logout")
def logout():
    response.delete_cookie("user", path="/")
    redirect("/", 303)


@app.post("/start")
def start():
    job_id = request.environ["backjob"].start(
        "/report", method="POST", data={"broken": request.forms.broken}, scope=require_user()
    )
    redirect(f"/progress/{job_id}", 303)


@app.get("/progress/<job_id:int>")
def progress(job_id: int):
    require_user()
    return PAGE.render(title=f"Job {job_id}", content=PROGRESS.render(job_id=job_id))


@app.get("/status/<job_id:int>")
def status(job_id: int):
    response.set_header("Cache-Control", "no-store")
    try:
        return request.environ["backjob"].status(job_id, scope=require_user()).as_dict(500)
    except JobNotFound as error:
        abort(404, str(error))


@app.post("/report")
def report():
    """Run as the job: an ordinary view of the app, which reports its progress and prints its output."""
    user = require_user()
    job = request.environ["backjob"]
    job.update(1)
    print(f"A report for {user}: started.", file=job)
    time.sleep(PAUSE)
    job.update(20)
    time.sleep(PAUSE)
    print("Figures added up.", file=job)
    job.update(40)
    time.sleep(PAUSE)
    if request.forms.broken:
        job.fail("The figures don't add up: you chose to let the job fail.")
    job.update(60)
    time.sleep(PAUSE)
    print("Pages drawn.", file=job)
    job.update(80)
    time.sleep(PAUSE)
    print(f"The report for {user} is done.", file=job)


application = BackJob(app)
