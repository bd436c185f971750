"""The fixture of docs/django.md, with pytest-django: each test sees jobs and rows of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import DOCS, read_blocks

SETTINGS = """
ALLOWED_HOSTS = ["*"]
BACKJOB = {"BACKLOG_DAYS": 7}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "backjob.integrations.django.BackJobMiddleware",
]
ROOT_URLCONF = "site_urls"
SECRET_KEY = "of a test"
STATIC_URL = "static/"
"""
URLS = """
from django.contrib.auth.models import Group
from django.http import HttpResponse
from django.urls import path

def count(request):
    if request.backjob.is_worker:
        return HttpResponse(f"groups: {Group.objects.count()}", content_type="text/plain")
    Group.objects.create(name="view")
    return HttpResponse(str(request.backjob.start("/count")))

urlpatterns = [path("count", count)]
"""
TESTS = """
import urllib.request

import pytest
from django.contrib.auth.models import Group

@pytest.mark.parametrize("database", ["db", "transactional_db"] * 2)
def test_a_job_on_the_connection_of_its_test(request, client, backjob, database):
    request.getfixturevalue(database)
    Group.objects.create(name="test")
    assert client.get("/count").content == b"1"
    assert backjob.jobs.start("/count") == 2
    for job_id in (1, 2):
        backjob.assert_completed(job_id, text="groups: 2")

@pytest.mark.parametrize("turn", [1, 2])
def test_a_job_of_a_live_server(live_server, backjob, turn):
    Group.objects.create(name="test")
    assert urllib.request.urlopen(live_server.url + "/count").read() == b"1"
    backjob.assert_completed(1, text="groups: 2")
"""


@pytest.mark.live
def test_each_test_has_jobs_of_its_own(tmp_path: Path) -> None:
    (conftest,) = [each.text for each in read_blocks(DOCS / "django.md") if each.text.startswith("# conftest.py")]
    files = {"conftest": conftest, "site_settings": SETTINGS, "site_urls": URLS, "test_site": TESTS}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONDEVMODE": ""}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "6 passed" in told.stdout
