"""A job and its pages. The scope of a job is its user, so that other users can't see it."""

import os
import time

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from backjob import JobNotFound

PAUSE = float(os.environ.get("PROGRESS_PAUSE", "1"))
"""Seconds that each step of the job takes."""


@login_required
def home(request):
    jobs = request.backjob.find(scope=str(request.user.pk), limit=5)
    return render(request, "home.html", {"jobs": jobs})


@require_POST
@login_required
def start(request):
    data = {"title": request.POST["title"]}
    job_id = request.backjob.start(reverse("report"), method="POST", data=data, scope=str(request.user.pk))
    return redirect("progress", job_id)


@login_required
def progress(request, job_id):
    return render(request, "progress.html", {"job_id": job_id})


@never_cache
@login_required
def status(request, job_id):
    try:
        job = request.backjob.status(job_id, scope=str(request.user.pk))
    except JobNotFound as error:
        raise Http404(str(error)) from error
    return JsonResponse(job.as_dict(500))


@require_POST
@login_required
def report(request):
    """Run as the job: an ordinary view, which reports its progress and prints its output."""
    job = request.backjob
    print(f"{request.POST['title']!r} for {request.user.get_username()}: started.", file=job)
    for _step in job.track(range(5)):
        time.sleep(PAUSE)
    return HttpResponse("The report is done.", content_type="text/plain")
