"""More pages for the Django example: what jobs do to a session, to a transaction, to a connection."""

from __future__ import annotations

import time
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model, logout
from django.contrib.auth.models import Group as Entry  # a table with a name in it
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from backjob.integrations.django import background


def start(request: HttpRequest) -> HttpResponse:
    """Start the job that the form names. ``then``: what becomes of the session before it runs, or of the work."""
    options: dict[str, Any] = {name: request.GET[name] for name in ("method",) if name in request.GET}
    if "anonymous" in request.GET:
        options["as_user"] = False
    then = request.GET.get("then", "")
    entry = Entry.objects.create(name=f"by the start of {request.GET['target']}") if "entry" in request.GET else None
    if then.startswith("user"):
        options["after_response"] = True
    job_id = request.backjob.start(request.GET["target"], **options)
    if then == "user-leaves":
        logout(request)
    elif then == "user-changes":
        eve = get_user_model().objects.get(username="eve")
        request.session["_auth_user_id"] = str(eve.pk)
        request.session["_auth_user_hash"] = eve.get_session_auth_hash()
    elif then == "rollback":
        transaction.set_rollback(True)
    return JsonResponse({"id": job_id, "entry": entry and entry.pk})


def state(request: HttpRequest, job_id: int) -> HttpResponse:
    return JsonResponse(request.backjob.status(job_id).as_dict())


def cancel(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"was_live": request.backjob.cancel(int(request.GET["id"]))})


def entries(request: HttpRequest) -> HttpResponse:
    """Somebody else who writes: locked out, if a transaction was left open."""
    Entry.objects.create(name=f"a visit, {time.monotonic_ns()}")
    return JsonResponse({"names": list(Entry.objects.values_list("name", flat=True))})


def work(request: HttpRequest, end: str) -> HttpResponse:
    """A job that writes to the database and then ends in this way."""
    job = request.backjob
    Entry.objects.create(name=end)
    print(f"{request.method} by {request.user.get_username() or 'nobody'}", file=job)
    if end == "error":
        raise ValueError("the figures don't add up")
    if end == "fail":
        job.fail("told to fail")
    while end == "cancel":
        job.update(10)
        time.sleep(0.01)
    if end == "finish":
        job.finish("all is well")
    return HttpResponse("", content_type="text/plain")


def find(request: HttpRequest, entry: int) -> HttpResponse:
    """A job about what its start wrote."""
    return HttpResponse(Entry.objects.get(pk=entry).name, content_type="text/plain")


@background(retries=1, scope=lambda request: request.user.get_username())
def sum_up(request: HttpRequest) -> HttpResponse:
    print(request.method, request.get_full_path(), request.content_type, file=request.backjob)
    return HttpResponse(request.POST.get("figures", request.body), content_type="text/plain")


@csrf_exempt
@background
@csrf_protect
def pay(request: HttpRequest) -> HttpResponse:
    """Checks for itself, within the job, whether it was asked by a page of this site."""
    Entry.objects.create(name=f"to {request.POST['to']}")
    return HttpResponse("paid", content_type="text/plain")


@method_decorator(background, name="dispatch")
class Count(View):
    def post(self, request: HttpRequest, most: int) -> HttpResponse:
        return HttpResponse(f"counted to {most} for {request.user}", content_type="text/plain")


@transaction.non_atomic_requests
async def wait(request: HttpRequest) -> HttpResponse:
    if "then" in request.GET:
        return JsonResponse({"id": await sync_to_async(request.backjob.start)(request.GET["then"])})
    request.backjob.fail("an async view ends too")
    return HttpResponse("")


urlpatterns = [
    path("begin", start),
    path("state/<int:job_id>", state),
    path("cancel", cancel),
    path("entries", entries),
    path("work/<str:end>", work),
    path("find/<int:entry>", find),
    path("sum", sum_up),
    path("count/<int:most>", Count.as_view()),
    path("pay", pay),
    path("wait", wait),
    path("", include("mysite.urls")),
]
