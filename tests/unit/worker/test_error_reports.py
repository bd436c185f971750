"""An exception in a job reaches the framework's own error reporting once, as in a request, and backjob's log once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import logging, sys

from backjob.testing import Inline

reports = []
options = {"launcher": Inline(), "database": sys.argv[1]}


def fail(*args):
    raise ValueError("no figures")


def report(sender, **given):
    error = given.get("exception", sys.exc_info()[1])
    reports.append(f"{type(error).__name__} {given['request'].path if 'request' in given else ''}".rstrip())

"""

END = """
job_id = application.jobs.start("/fail?token=secret", delay=60)
application.run_job(job_id, early=True)
application.close()
print([getattr(each, 'subject', each) for each in reports])
"""

FRAMEWORKS = {
    "plain": (
        """
from backjob import BackJob

application = BackJob(fail, **options)
""",
        ("[]", 1),
    ),
    "exc_info": (
        """
from backjob import BackJob


def app(environ, start_response):
    try:
        fail()
    except ValueError:
        start_response("500 Out of Order", [("Content-Type", "text/plain")], sys.exc_info())
    return []


application = BackJob(app, **options)
""",
        ("[]", 1),
    ),
    "flask": (
        """
from flask import Flask, got_request_exception
from backjob.integrations.flask import FlaskBackJob

app = Flask("shop")
app.add_url_rule("/fail", view_func=fail)
got_request_exception.connect(report)
FlaskBackJob(app, **options)
application = app.extensions["backjob"]
""",
        ("['ValueError']", 2),  # app.logger's, too
    ),
    "django": (
        """
from django.conf import settings
from django.core import mail
from django.core.signals import got_request_exception
from django.urls import path

settings.configure(
    ADMINS=[("Ada", "ada@example.org")],
    ALLOWED_HOSTS=["*"],
    BACKJOB={name.upper(): value for name, value in options.items()},
    EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
    MIDDLEWARE=["backjob.integrations.django.BackJobMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="nothing of this site is secret",
)
urlpatterns = [path("fail", fail)]
got_request_exception.connect(report)

from backjob.integrations.django import get_wsgi_application

application = get_wsgi_application()
mail.outbox = reports
""",
        ("['ValueError /fail', '[Django] ERROR (EXTERNAL IP): Internal Server Error: /fail']", 1),
    ),
    "pyramid": (
        """
from pyramid.config import Configurator

with Configurator(settings={f"backjob.{name}": value for name, value in options.items()}) as config:
    config.include("backjob.integrations.pyramid")
    config.add_route("fail", "/fail")
    config.add_view(fail, route_name="fail")
application = config.registry.backjob
""",
        ("[]", 1),  # Pyramid lets an exception pass to the server
    ),
    "bottle": (
        """
import bottle
from backjob.integrations.bottle import BackJobPlugin

app = bottle.Bottle()
app.get("/fail", callback=fail)
plugin = BackJobPlugin(**options)
app.install(plugin)
application = plugin.application
""",
        ("[]", 2),  # Bottle's, in wsgi.errors
    ),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_an_exception_in_a_job_is_reported_once(tmp_path: Path, name: str) -> None:
    """Nothing is configured: errors are on stderr. No line has the query."""
    script, (reports, tracebacks) = FRAMEWORKS[name]
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + script + END, f"sqlite:///{tmp_path}/jobs.sqlite3"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == reports
    assert ran.stderr.count("Job 1 failed") == 1
    assert ran.stderr.count("\nValueError: no figures\n") == tracebacks
    assert "secret" not in ran.stderr
