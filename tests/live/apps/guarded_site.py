"""A Django that insists on https, believes the proxy about it, and lets no form in without its token and origin."""

from __future__ import annotations

import judge
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.middleware.csrf import get_token
from django.urls import path

from backjob import BackJob

settings.configure(
    SECRET_KEY="signs what a test is given",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    SECURE_SSL_REDIRECT=True,
)


def token(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"token": get_token(request)})


def start(request: HttpRequest) -> JsonResponse:
    """A form that starts a job of the same method, as its user or as nobody."""
    jobs, as_user = request.environ["backjob"], "anonymous" not in request.GET
    job_id = jobs.start("/job", method=request.method, as_user=as_user)
    return JsonResponse({"ids": [job_id]})


def status(request: HttpRequest) -> JsonResponse:
    return JsonResponse(request.environ["backjob"].status(request.GET["id"]).as_dict())


def job(request: HttpRequest) -> JsonResponse:
    with judge.run(request.environ):
        return JsonResponse({"secure": request.is_secure()})


urlpatterns = [path(view.__name__, view) for view in (token, start, status, job)]
application = BackJob(get_wsgi_application())
