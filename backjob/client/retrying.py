"""The request of an ended job that is started again, and the reasons why it can't be.

Knows jobs and the key. Records nothing.
"""

from __future__ import annotations

from backjob.errors import NEWER_RECORD, BackJobError
from backjob.keyring import SealError
from backjob.model.job import Job, JobRequest, Status

from .backend import Backend
from .capture import may_run_in

_OF_A_USER = "only a job that was started with as_user=False can. The request of a user's job is deleted when it ends"


def open_again(backend: Backend, job: Job) -> JobRequest:
    """Return the request of an ended job. Raises BackJobError if the job can't be started again here."""

    def refuse(why: str, where: str = "") -> BackJobError:
        return BackJobError(f"Job {job.id} can't be started again{where}: {why}")

    if refusal := _find_refusal(job):
        raise refuse(refusal)
    try:
        request = backend.keyring.unseal(job.id, job.uid, job.sealed)
    except SealError:
        raise refuse("its request can't be unsealed: its key is missing here, or the record was changed") from None
    if not request.anonymous:  # the row may have been changed
        raise refuse(_OF_A_USER)
    if backend.config.address is None and not may_run_in(backend.self_request.app, request):
        raise refuse("it belongs to another app", " here")
    return request


def _find_refusal(job: Job) -> str:
    """Return the reason, as far as the row shows it, why a job can't be started again; or ""."""
    if not job.is_readable:
        return NEWER_RECORD
    if not job.anonymous:
        return _OF_A_USER
    if not job.status.is_final:
        return f"it has not ended, it is {job.status.word}"
    if job.status is Status.COMPLETED:
        return "it has completed"
    return ""
