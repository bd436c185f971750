"""The settings and the pages of a Django project that has the workshop's pages for its own."""

from __future__ import annotations

import webob
import workshop
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import re_path

SECRET_KEY = "nothing of this site is signed"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
WSGI_APPLICATION = "django_wsgi.application"
USE_TZ = True


def show(request: HttpRequest) -> StreamingHttpResponse:
    answer = webob.Request(request.environ).send(workshop.app)
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Length"}
    return StreamingHttpResponse(answer.app_iter, status=answer.status_int, headers=headers)


urlpatterns = [re_path("", show)]
